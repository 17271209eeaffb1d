-- Deletes the reader's record if it is still this pod's.
-- KEYS[1] reader:{stream}   ARGV[1] pod ID
local there, record = pcall(cjson.decode, redis.call('GET', KEYS[1]) or '')
if there and type(record) == 'table' and record.pod_id == ARGV[1] then
  redis.call('DEL', KEYS[1])
  return 1
end
return 0
