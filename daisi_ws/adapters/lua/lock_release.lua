-- Deletes session locks that are still their owners', and notes in the fence that it was meant so:
-- a renewal that is still on its way will not set them again.
-- KEYS    lock, fence of each
-- ARGV    owner of each
-- Returns how many were deleted. GETEX: see lock_acquire.lua.
local deleted = 0
for i = 1, #ARGV do
  local lock, fence = KEYS[2 * i - 1], KEYS[2 * i]
  if redis.call('GETEX', lock) == ARGV[i] then
    redis.call('DEL', lock)
    local number = string.match(redis.call('GETEX', fence) or '', '^%d+')
    if number then
      redis.call('SET', fence, number .. ' ', 'XX', 'KEEPTTL')
    end
    deleted = deleted + 1
  end
end
return deleted
