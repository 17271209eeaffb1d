-- Makes a pod the reader of a stream and numbers it.
-- KEYS[1] reader_epoch:{stream}   KEYS[2] reader:{stream}
-- ARGV[1] the record as JSON with "epoch":0   ARGV[2] the newest epoch known to the pod
-- Returns the new epoch. It grows even where Redis came back empty, because it follows the clock,
-- and where it came back with a clock that is behind, because the pod knows the last one.
local time = redis.call('TIME')
local epoch = time[1] * 1000000 + time[2]
-- What is no number is none, whoever put it there: it keeps nobody from reading.
local last = tonumber(string.match(redis.call('GET', KEYS[1]) or '', '^%d+$') or '0')
if last >= 2 ^ 53 - 1 then
  last = 0
end
last = math.max(last, tonumber(ARGV[2]))
if epoch <= last then
  epoch = last + 1
end
local text = string.format('%.0f', epoch)
redis.call('SET', KEYS[1], text)
redis.call('SET', KEYS[2], (string.gsub(ARGV[1], '"epoch":0', '"epoch":' .. text, 1)))
return tonumber(text)
