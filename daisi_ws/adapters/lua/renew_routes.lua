-- Registers a pod in many routes again, writing only what needs it: every write of a key would
-- make all pods that cache it read it again.
-- KEYS[i] a route   ARGV[1] pod ID   ARGV[i+1] its TTL in milliseconds
-- Returns how many had lost the pod.
local lost = 0
for i, key in ipairs(KEYS) do
  local ttl = tonumber(ARGV[i + 1])
  if redis.call('SISMEMBER', key, ARGV[1]) == 0 then
    redis.call('SADD', key, ARGV[1])
    redis.call('PEXPIRE', key, ttl)
    lost = lost + 1
  elseif redis.call('PTTL', key) < ttl / 2 then
    redis.call('PEXPIRE', key, ttl)
  end
end
return lost
