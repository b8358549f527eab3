-- Replay a dead letter once: give the event back to the group that failed it, as a first attempt, in a
-- new trace that links to the one that failed.
--
-- KEYS[1]  dead letter stream
-- KEYS[2]  hash of replayed dead letters: entry id to time
-- KEYS[3]  retry stream of the group that failed it
-- KEYS[4]  what became of the job, if it is one: hash of source to its entry, a space, and JSON
-- ARGV[1]  entry id of the dead letter
-- ARGV[2]  time, RFC 3339
-- ARGV[3]  the JSON that KEYS[4] then has of it, if there is any
-- ARGV[4]  traceparent of the new trace
-- ARGV[5]  traceparent of the run that failed, '' if it is not known
-- ARGV[6]  source of the event
-- ARGV[7]  the entry that its record belongs to
-- ARGV[8]  data to put in place of the event's own, if given
-- returns  entry id in the retry stream; '' if it was replayed before; false if there is no such dead letter

local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return false end
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return '' end

local origin
local fields = {'traceparent', ARGV[4]}
if ARGV[5] ~= '' then
  fields[3], fields[4] = 'links', ARGV[5]
end
local mine = {traceparent = true, tracestate = true, links = true}
if ARGV[8] then
  fields[#fields + 1] = 'data'
  fields[#fields + 1] = ARGV[8]
  mine.data = true
end
local last, whole = #found[2], false
if found[2][last - 19] == 'dlq.stream' then -- the ten that a burial puts behind an entry's own fields
  origin, last, whole = found[2][last - 14], last - 20, true
end
for i = 1, last, 2 do
  local name, value = found[2][i], found[2][i + 1]
  local ours = not whole and string.sub(name, 1, 4) == 'dlq.' -- a letter that was put there by hand
  if ours and name == 'dlq.entry' then origin = value end
  if not mine[name] and not ours then
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
end
for _, part in ipairs({'retry.entry', origin or '', 'attempt', '1', 'retry.crashes', '0', 'retry.error', ''}) do
  fields[#fields + 1] = part
end
local entry = redis.call('XADD', KEYS[3], '*', unpack(fields))
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local record = redis.call('HGET', KEYS[4], ARGV[6])
if record and string.match(record, '^%S*') == ARGV[7] then
  redis.call('HSET', KEYS[4], ARGV[6], ARGV[7] .. ' ' .. ARGV[3])
end
return entry
