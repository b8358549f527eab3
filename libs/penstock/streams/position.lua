-- Where a group stands in a stream, at one instant.
--
-- KEYS[1]  stream
-- KEYS[2]  the group's retry stream for it
-- KEYS[3]  the group's delayed set for it
-- ARGV[1]  group
-- returns  {now in ms, first unread, oldest pending, oldest retry, waiting}
--            first unread    id of the first entry that was never delivered, or ''
--            oldest pending  id of the oldest entry that is delivered and not settled, or ''
--            oldest retry    id of the oldest entry in the retry stream, in flight or not, or ''
--            waiting         entries in the retry stream and in the delayed set

local last = '0-0' -- where a group starts that does not exist yet
for _, group in ipairs(redis.pcall('XINFO', 'GROUPS', KEYS[1])) do
  local info = {}
  for i = 1, #group, 2 do info[group[i]] = group[i + 1] end
  if info['name'] == ARGV[1] then last = info['last-delivered-id'] end
end
local unread = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)[1]
local retry = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local time = redis.call('TIME')
return {
  time[1] * 1000 + math.floor(time[2] / 1000),
  unread and unread[1] or '',
  redis.pcall('XPENDING', KEYS[1], ARGV[1])[2] or '', -- an error without a group
  retry and retry[1] or '',
  redis.call('XLEN', KEYS[2]) + redis.call('ZCARD', KEYS[3]),
}
