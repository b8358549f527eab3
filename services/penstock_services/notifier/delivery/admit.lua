-- May this change of an alert be sent to this channel now?
--
-- A notification log is one alert on one channel. Of its changes only the newest is sent: it stands for those
-- that are still waiting. One is sent at a time. Whoever has to wait for the channel's rate is told until when, and
-- that slot is then the log's, whichever of its changes comes to use it. Nobody is told of a beginning after its end.
-- An end does not give way to the next episode where its beginning has arrived: whichever is sent first, it goes first.
--
-- KEYS[1]  log: hash
-- KEYS[2]  until when the target is not to be used, in ms (Retry-After)
-- KEYS[3]  record of the alert: hash, as fanout.lua writes it
-- KEYS[4]  ... gates: lists of the slots given last, oldest first, in ms
-- ARGV[1]  id of the delivery
-- ARGV[2]  order of the change
-- ARGV[3]  its status: firing or resolved
-- ARGV[4]  episode of the alert
-- ARGV[5]  what to call the change when a later one stands for it
-- ARGV[6]  how long one attempt may take, in ms: nobody else sends meanwhile
-- ARGV[7]  lifetime of log and record, in ms
-- ARGV[8]  the channel, if it is told of the ends of alerts, else ''
-- ARGV[9]  the alert as JSON where it is resolved, else ''
-- ARGV[10] who it goes to: channel, and recipient where there are several
-- ARGV[11] ... for each gate: most messages, within how many ms
-- returns  {'sent', receipt}        this very delivery has been confirmed, but has not been settled
--          {'superseded'}           a newer change is on its way or has arrived, or this one has by another way
--          {'wait', ms, 1 if the target is not to be used until then, else 0}
--          {'go', reference of the episode's last message that arrived, or '', 1 if one may have arrived that is not in
--           the log any more, else 0,
--           the end of the episode before that must be sent first: event id, order, alert, reference; '' if there is none,
--           name of a waiting change ...}

local log, blocked, record = KEYS[1], KEYS[2], KEYS[3]
local event, order, status, episode, channel = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[8]
local FIRST_GATE, GATE_ARGUMENTS = 4, 11 -- where they begin
local MOST_WAITING = 20
local STALE_MS = 60000 -- a slot that nobody came to use is no longer one

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = {}
local fields = redis.call('HGETALL', log)
for i = 1, #fields, 2 do known[fields[i]] = fields[i + 1] end

if known['receipt:' .. event] then return {'sent', known['receipt:' .. event]} end
if known.delivered and known.delivered >= order then return {'superseded'} end
if status == 'resolved' and known.status == 'resolved' and known.episode == episode then return {'superseded'} end
if status == 'firing' and channel ~= '' then
  local newest = redis.call('HMGET', record, 'status', 'episode')
  if newest[1] == 'resolved' and newest[2] == episode then
    -- where the end is told too, it stands for this
    if redis.call('HGET', record, 'to:' .. channel) == episode then redis.call('HSET', log, 'waiting:' .. order, ARGV[5]) end
    if redis.call('EXISTS', log) == 1 then redis.call('PEXPIRE', log, ARGV[7]) end
    return {'superseded'}
  end
  if not newest[2] or newest[2] == episode then
    redis.call('HSET', record, 'to:' .. channel, episode)
    redis.call('PEXPIRE', record, ARGV[7])
  end
end

local waiting = {}
for field in pairs(known) do
  local change = string.match(field, '^waiting:(.+)$')
  if change and change ~= order then waiting[#waiting + 1] = change end
end
table.sort(waiting)
redis.call('HSET', log, 'waiting:' .. order, ARGV[5])
for i = 1, #waiting - MOST_WAITING do redis.call('HDEL', log, 'waiting:' .. waiting[i]) end
redis.call('PEXPIRE', log, ARGV[7])
local is_end = status == 'resolved' and known.status == 'firing' and known.episode == episode
if is_end then redis.call('HSET', log, 'end_event', event, 'end_order', order, 'end', ARGV[9]) end
if not is_end and waiting[#waiting] and waiting[#waiting] > order then return {'superseded'} end

if known.holder and known.holder ~= event and tonumber(known.held_until) > now then
  return {'wait', math.min(known.held_until - now, 250), 0}
end

local earliest = tonumber(redis.call('GET', blocked) or 0)
local slot = tonumber(known.slot or 0)
if slot < earliest or slot < now - STALE_MS then
  slot = math.max(now, earliest)
  for i = FIRST_GATE, #KEYS do
    local at = GATE_ARGUMENTS + 2 * (i - FIRST_GATE)
    local first = redis.call('LINDEX', KEYS[i], -ARGV[at])
    local last = redis.call('LINDEX', KEYS[i], -1)
    slot = math.max(slot, first and first + ARGV[at + 1] or 0, tonumber(last or 0))
  end
  for i = FIRST_GATE, #KEYS do
    local at = GATE_ARGUMENTS + 2 * (i - FIRST_GATE)
    redis.call('RPUSH', KEYS[i], slot)
    redis.call('LTRIM', KEYS[i], -ARGV[at], -1)
    redis.call('PEXPIRE', KEYS[i], slot - now + ARGV[at + 1])
  end
end
if slot > now then
  redis.call('HSET', log, 'slot', slot)
  return {'wait', slot - now, earliest > now and 1 or 0}
end

redis.call('HDEL', log, 'slot')
redis.call('HSET', log, 'holder', event, 'held_until', now + ARGV[6])
local same = known.episode == episode
local told = redis.call('HMGET', record, 'episode', 'lost', 'sent:' .. ARGV[10])
local unrecorded = told[2] == episode or told[3] == episode or (status == 'resolved' and not told[1] and #waiting == 0)
local reply = {'go', same and known.reference or '', (unrecorded and not known.delivered) and 1 or 0, '', '', '', ''}
local told_first = ''
if known['end'] and not same and known.status == 'firing' then
  told_first = known.end_order
  reply[4], reply[5], reply[6], reply[7] = known.end_event, told_first, known['end'], known.reference or ''
end
for _, change in ipairs(waiting) do
  if change > told_first and change < order then reply[#reply + 1] = known['waiting:' .. change] end
end
return reply
