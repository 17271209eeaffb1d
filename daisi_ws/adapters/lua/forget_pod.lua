-- Removes a pod from a route, or from the set of all, only if it has no lease at this moment.
-- KEYS[1] the set   KEYS[2] pod:{id}   ARGV[1] pod ID
if redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
return redis.call('SREM', KEYS[1], ARGV[1])
