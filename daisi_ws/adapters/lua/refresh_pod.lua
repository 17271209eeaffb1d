-- Writes a pod's record with a fresh lease.
-- KEYS[1] pod:{id}   KEYS[2] pods   ARGV[1] record   ARGV[2] lease in milliseconds   ARGV[3] pod ID
-- Returns 1 if there was a lease before.
local before = redis.call('EXISTS', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
return before
