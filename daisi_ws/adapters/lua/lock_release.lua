-- Deletes session locks that are still their owners', and notes in the fence that it was meant so:
-- a renewal that is still on its way will not set them again.
-- KEYS    lock, fence of each
-- ARGV    owner of each
-- Returns how many were deleted. GETEX: see lock_acquire.lua.

-- What is no text is no lock, whoever put it there: it holds nobody up.
local function text(key)
  local value = redis.pcall('GETEX', key)
  return type(value) == 'string' and value
end

local deleted = 0
for i = 1, #ARGV do
  local lock, fence = KEYS[2 * i - 1], KEYS[2 * i]
  if text(lock) == ARGV[i] then
    redis.call('DEL', lock)
    local number = string.match(text(fence) or '', '^%d+')
    if number then
      redis.call('SET', fence, number .. ' ', 'XX', 'KEEPTTL')
    end
    deleted = deleted + 1
  end
end
return deleted
