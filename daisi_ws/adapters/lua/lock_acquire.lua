-- Takes a session lock that is free, already the owner's, or still that of a holder to be replaced.
-- KEYS[1] lock
-- KEYS[2] fence: "<number> <owner>" of the newest owner; empty owner: it gave the lock up
-- KEYS[3] lock value of a holder that is leaving: its pod drains, and has asked it to go
-- ARGV[1] owner
-- ARGV[2] TTL of the lock in ms; the fence lives ten times as long
-- ARGV[3] holder to replace, empty for nobody
-- ARGV[4] prefix of the keys of pods' leases; empty: the caller asks for the lease itself
-- Returns the owner's fencing number, or {holder, 1 if its pod has a lease, 1 if it is leaving}.
--
-- Besides KEYS it reads the lease of the holder's pod, whose name it learns only here: that works
-- with one primary (alone, behind Sentinel or managed). On a Redis Cluster, where the lease lies
-- elsewhere, ARGV[4] is empty.
-- GETEX without options is a GET that client tracking does not remember: nobody caches locks, and
-- each renewal of a tracked one would be pushed back to us.

-- What is no text is no lock, whoever put it there: it holds nobody up.
local function text(key)
  local value = redis.pcall('GETEX', key)
  return type(value) == 'string' and value
end

local owner, ttl = ARGV[1], tonumber(ARGV[2])
local holder = text(KEYS[1])
if holder and holder ~= owner and holder ~= ARGV[3] then
  local pod = string.match(holder, '^[^#]*')
  return {holder, ARGV[4] ~= '' and text(ARGV[4] .. pod) and 1 or 0, text(KEYS[3]) == holder and 1 or 0}
end
local number, newest = string.match(text(KEYS[2]) or '', '^(%d+) (.*)$')
if holder ~= owner or newest ~= owner then
  -- Redis' clock, so that numbers grow even over the loss of the data; the last number, so that
  -- they grow even when the clock is set back.
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  number = math.max(now, (tonumber(number) or 0) + 1)
  if number >= 2 ^ 53 then
    number = now
  end
  number = string.format('%.0f', number)
end
redis.call('SET', KEYS[1], owner, 'PX', ttl)
redis.call('SET', KEYS[2], number .. ' ' .. owner, 'PX', ttl * 10)
return tonumber(number)
