-- Find an event that is to be published later by its id; and, if asked for, take it away.
--
-- KEYS[1]  sorted set: MessagePack fields by due time in ms
-- KEYS[2]  to cancel: what became of the job: hash of source to its entry, a space, and JSON
-- KEYS[3]  to cancel: the stream on which it is told, if it is
-- ARGV[1]  id
-- ARGV[2]  most events to look at
-- ARGV[3]  source, if only that one is meant; else ''
-- ARGV[4]  'event': return the event as well; or, to cancel it, MessagePack {source, its record as it is known or '',
--          its record from now on, ms that that lives, fields to tell}
-- returns  {type, tenant, due time in ms}, with 'event' its fields behind them; to cancel 'cancelled'; or nil: it is
--          not there, or, to cancel, its record is not the one that was known

local BYTES = 2000000 -- about as many in memory at a time: each event may be large

local function found(member, packed, fields, due)
  if not ARGV[4] then return {fields['type'] or '', fields['tenant'] or '', due} end
  if ARGV[4] == 'event' then return {fields['type'] or '', fields['tenant'] or '', due, packed} end
  local source, known, record, lifetime, report = unpack(cmsgpack.unpack(ARGV[4]))
  if (redis.call('HGET', KEYS[2], source) or '') ~= known then return nil end
  redis.call('ZREM', KEYS[1], member)
  redis.call('HSET', KEYS[2], source, record)
  redis.call('PEXPIRE', KEYS[2], lifetime)
  if KEYS[3] then redis.call('XADD', KEYS[3], '*', unpack(report)) end
  return 'cancelled'
end

local at, most = 0, tonumber(ARGV[2])
local page = 1
while at < most do
  local rows = redis.call('ZRANGE', KEYS[1], at, at + page - 1, 'WITHSCORES')
  local seen = 0
  for i = 1, #rows, 2 do
    seen = seen + #rows[i]
    local packed = cmsgpack.unpack(rows[i])
    local fields = {}
    for j = 1, #packed, 2 do fields[packed[j]] = packed[j + 1] end
    if fields['id'] == ARGV[1] and (ARGV[3] == '' or fields['source'] == ARGV[3]) then
      return found(rows[i], packed, fields, rows[i + 1])
    end
  end
  if #rows < 2 * page then return nil end
  at = at + page
  page = math.max(1, math.min(2 * page, 50, most - at, math.floor(BYTES * page / math.max(1, seen))))
end
return nil
