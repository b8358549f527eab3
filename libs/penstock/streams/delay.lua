-- Move what is due from a sorted set to the stream it waits for.
--
-- KEYS[1]  sorted set: MessagePack fields by due time in ms
-- KEYS[2]  stream
-- ARGV[1]  most events to move in this call
-- returns  {moved, ms until the next is due, or -1 if nothing waits}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, fields in ipairs(due) do
  redis.call('XADD', KEYS[2], '*', unpack(cmsgpack.unpack(fields)))
  redis.call('ZREM', KEYS[1], fields)
end
local next_due = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {#due, next_due[2] and math.max(0, next_due[2] - now) or -1}
