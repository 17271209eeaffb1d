-- Confirms that a pod is still the reader; writes its record again where Redis came back empty.
-- KEYS[1] reader_epoch:{stream}   KEYS[2] reader:{stream}   ARGV[1] record   ARGV[2] its epoch
-- Returns 1 if it is, 0 if a newer reader is known.
-- What is no number is none, whoever put it there.
local last = tonumber(string.match(redis.call('GET', KEYS[1]) or '', '^%d+$') or '0')
if last >= 2 ^ 53 then
  last = 0
end
local epoch = tonumber(ARGV[2])
if last > epoch then
  return 0
end
if last < epoch then
  redis.call('SET', KEYS[1], ARGV[2])
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('SET', KEYS[2], ARGV[1])
end
return 1
