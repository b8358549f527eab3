-- Note where a group stands in a stream, for the day on which it is gone: up to which entry it has settled all.
--
-- KEYS[1]  stream
-- KEYS[2]  positions of the group: hash of stream to that entry's id
-- ARGV[1]  group
-- ARGV[2]  name of the stream

local last
for _, group in ipairs(redis.pcall('XINFO', 'GROUPS', KEYS[1])) do
  local info = {}
  for i = 1, #group, 2 do info[group[i]] = group[i + 1] end
  if info['name'] == ARGV[1] then last = info['last-delivered-id'] end
end
if not last then return end
local oldest = redis.call('XPENDING', KEYS[1], ARGV[1])[2]
if oldest then
  local ms, seq = string.match(oldest, '^(%d+)-(%d+)$')
  if seq ~= '0' and #seq < 16 then -- beyond that Lua's numbers are not exact: then all of that ms runs again
    last = ms .. '-' .. string.format('%.0f', seq - 1)
  elseif ms ~= '0' then
    last = string.format('%.0f', ms - 1) .. '-18446744073709551615'
  end
end
if redis.call('HGET', KEYS[2], ARGV[2]) ~= last then redis.call('HSET', KEYS[2], ARGV[2], last) end
