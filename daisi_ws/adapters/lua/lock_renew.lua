-- Renews session locks that are still their owners'.
-- KEYS    lock, fence of each
-- ARGV    owner, TTL in ms of each
-- Returns for each 1 if it is still the owner's, 0 if not.
--
-- A lock that is not there is set again (Redis came back empty), unless the fence knows that its
-- owner gave it up or that somebody had it after this owner. GETEX: see lock_acquire.lua.

-- What is no text is no lock, whoever put it there: it holds nobody up.
local function text(key)
  local value = redis.pcall('GETEX', key)
  return type(value) == 'string' and value
end

local kept = {}
for i = 1, #KEYS, 2 do
  local lock, fence, owner, ttl = KEYS[i], KEYS[i + 1], ARGV[i], tonumber(ARGV[i + 1])
  local holder = text(lock)
  if not holder then
    local newest = string.match(text(fence) or '', '^%d+ (.*)$')
    if not newest or newest == owner then
      redis.call('SET', lock, owner, 'PX', ttl)
      holder = owner
    end
  elseif holder == owner then
    redis.call('PEXPIRE', lock, ttl)
  end
  if holder == owner then
    redis.call('PEXPIRE', fence, ttl * 10)
    kept[#kept + 1] = 1
  else
    kept[#kept + 1] = 0
  end
end
return kept
