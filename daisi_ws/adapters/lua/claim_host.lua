-- Claims a host name for a supervisor, or keeps it.
-- KEYS[1] host:{name}   ARGV[1] supervisor   ARGV[2] lease in milliseconds
-- Returns false when it is ours now, else who has it.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return holder
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
