-- Promote what is due: move it from a sorted set to the stream it waits for.
--
-- KEYS[1]  sorted set: MessagePack fields by due time in ms
-- KEYS[2]  stream
-- ARGV[1]  most events to move in this call
-- ARGV[2]  about how many bytes to move in this call
-- returns  {ms until more is due: 0 if it is already, -1 if nothing waits}

local PAGE = 20 -- members in memory at a time; after a large one, one by one: each may be large
local most, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local moved, bytes = 0, 0
local page = 1
while moved < most and bytes < most_bytes do
  local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, page)
  if #due == 0 then break end
  page = 0
  for _, fields in ipairs(due) do
    if bytes >= most_bytes then break end
    page = math.max(page, #fields)
    redis.call('XADD', KEYS[2], '*', unpack(cmsgpack.unpack(fields)))
    redis.call('ZREM', KEYS[1], fields)
    moved = moved + 1
    bytes = bytes + #fields
  end
  page = page * PAGE < most_bytes and PAGE or 1
end
local next_due = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {next_due[2] and math.max(0, next_due[2] - now) or -1}
