-- Deletes the reader's record if it is still this pod's.
-- KEYS[1] reader:{stream}   ARGV[1] pod ID
local record = redis.call('GET', KEYS[1])
if record and cjson.decode(record).pod_id == ARGV[1] then
  redis.call('DEL', KEYS[1])
  return 1
end
return 0
