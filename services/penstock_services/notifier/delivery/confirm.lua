-- The other side has confirmed a message: from here on it is never sent again. The receipt stays until the
-- delivery is settled, for whoever takes it over should this process die before.
--
-- KEYS[1]  log: hash
-- KEYS[2]  until when the target is not to be used, in ms
-- KEYS[3]  record of the alert: hash, as fanout.lua writes it
-- ARGV[1]  id of the delivery
-- ARGV[2]  order of the change
-- ARGV[3]  its status: firing or resolved
-- ARGV[4]  episode of the alert
-- ARGV[5]  receipt
-- ARGV[6]  reference of the message, '' if it has none
-- ARGV[7]  how long the other side wants to be left alone, in ms
-- ARGV[8]  lifetime of the log, in ms
-- ARGV[9]  who it has arrived at: channel, and recipient where there are several
-- returns  1; 0 if a later change has arrived already

local log, order, pause = KEYS[1], ARGV[2], tonumber(ARGV[7])
redis.call('HSET', log, 'receipt:' .. ARGV[1], ARGV[5])
redis.call('PEXPIRE', log, ARGV[8])
if redis.call('HGET', log, 'holder') == ARGV[1] then redis.call('HDEL', log, 'holder', 'held_until') end
if redis.call('HGET', KEYS[3], 'episode') == ARGV[4] then redis.call('HSET', KEYS[3], 'sent:' .. ARGV[9], ARGV[4]) end
if (redis.call('HGET', log, 'delivered') or '') >= order then return 0 end
redis.call('HSET', log, 'delivered', order, 'status', ARGV[3], 'episode', ARGV[4], 'reference', ARGV[6])
for _, field in ipairs(redis.call('HKEYS', log)) do
  local change = string.match(field, '^waiting:(.+)$')
  if change and change <= order then redis.call('HDEL', log, field) end
end
if (redis.call('HGET', log, 'end_order') or order) <= order then
  redis.call('HDEL', log, 'end', 'end_event', 'end_order')
end
if pause > 0 then
  local time = redis.call('TIME')
  local free = time[1] * 1000 + math.floor(time[2] / 1000) + pause
  if free > tonumber(redis.call('GET', KEYS[2]) or 0) then redis.call('SET', KEYS[2], free, 'PX', pause) end
end
return 1
