-- Adds a pod to routes, then says who reads the stream: whoever becomes the reader writes so before it
-- reads a route, so either it finds the pod or the pod finds it.
-- KEYS[1] reader:{stream}   KEYS[2…] routes   ARGV[1] pod ID   ARGV[2] TTL of the routes in ms
-- Returns the reader's record, if there is one.
for i = 2, #KEYS do
  redis.call('SADD', KEYS[i], ARGV[1])
  redis.call('PEXPIRE', KEYS[i], ARGV[2])
end
return redis.call('GET', KEYS[1])
