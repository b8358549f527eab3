-- Find an event that is to be published later by its id, without sending what it holds.
--
-- KEYS[1]  sorted set: MessagePack fields by due time in ms
-- ARGV[1]  id
-- ARGV[2]  most events to look at
-- ARGV[3]  source, if only that one is meant
-- returns  {type, tenant, due time in ms}, or nil

local PAGE = 50 -- events in memory at a time: each may be large
local at, most = 0, tonumber(ARGV[2])
while at < most do
  local rows = redis.call('ZRANGE', KEYS[1], at, at + PAGE - 1, 'WITHSCORES')
  for i = 1, #rows, 2 do
    local packed = cmsgpack.unpack(rows[i])
    local fields = {}
    for j = 1, #packed, 2 do fields[packed[j]] = packed[j + 1] end
    if fields['id'] == ARGV[1] and (not ARGV[3] or fields['source'] == ARGV[3]) then
      return {fields['type'] or '', fields['tenant'] or '', rows[i + 1]}
    end
  end
  if #rows < 2 * PAGE then return nil end
  at = at + PAGE
end
return nil
