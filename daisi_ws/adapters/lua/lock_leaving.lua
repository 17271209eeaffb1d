-- Marks the holders of session locks as leaving, for newcomers; see lock_acquire.lua.
-- KEYS    mark of each
-- ARGV[1] TTL in ms
-- ARGV[2…] lock value of each: a mark that is not the holder's means nothing
for i = 1, #KEYS do
  redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[1])
end
