-- A change of an alert is about to be sent out: note it as the newest, and who is told.
--
-- What is told of an alert's end follows from who was told of its beginning, whatever rules and routes say by then.
-- A channel that joins later (a substitute, an escalation) asks admit.lua, which reads the same record: either it
-- comes first and is told of the end, or the end came first and it is not told at all.
--
-- KEYS[1]  record of the alert: hash
-- ARGV[1]  order of the change
-- ARGV[2]  its status: firing or resolved
-- ARGV[3]  episode of the alert
-- ARGV[4]  who has acknowledged it, or ''
-- ARGV[5]  the alert, as JSON
-- ARGV[6]  lifetime of the record, in ms
-- ARGV[7]  1 if the change is the first of its episode, else 0
-- ARGV[8]  ... channels that are told of it now
-- returns  {name of a field of this episode ...}   `to:<channel>` for who was told, `then:<step>` for what is planned

local record, order, episode = KEYS[1], ARGV[1], ARGV[3]
local LIFETIME, FIRST, LAST = 6, 7, 7 -- the last of the single arguments

local known = redis.call('HMGET', record, 'order', 'episode')
local newest = (known[1] or '') <= order
if newest then
  if known[2] and known[2] ~= episode then redis.call('DEL', record) end
  redis.call('HSET', record, 'order', order, 'status', ARGV[2], 'episode', episode,
    'acknowledged', ARGV[4], 'alert', ARGV[5])
  -- what was told before this record began is not known
  if known[2] ~= episode and ARGV[FIRST] == '0' then redis.call('HSET', record, 'lost', episode) end
end
if newest or known[2] == episode then
  for i = LAST + 1, #ARGV do redis.call('HSET', record, 'to:' .. ARGV[i], episode) end
end
redis.call('PEXPIRE', record, ARGV[LIFETIME])

local found = {}
local fields = redis.call('HGETALL', record)
for i = 1, #fields, 2 do
  if fields[i + 1] == episode and string.match(fields[i], '^%l+:') then found[#found + 1] = fields[i] end
end
return found
