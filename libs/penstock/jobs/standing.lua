-- Where a group stands with one entry of a stream; and, if asked for, cancel it unless it has begun or is over.
--
-- What waits in a stream is marked, since others read that stream too, and the group settles it when it comes to it;
-- what waits for its time is taken away.
--
-- KEYS[1]  stream
-- KEYS[2]  the group's retry stream for it
-- KEYS[3]  the group's delayed set for it
-- KEYS[4]  dead letter stream
-- KEYS[5]  hash of replayed dead letters: entry id to time
-- KEYS[6]  hash of the stream's cancelled entries that wait: entry id to '1'
-- KEYS[7]  to cancel: what became of the job: hash of source to its entry, a space, and JSON
-- KEYS[8]  to cancel: the entry's checkpoint
-- KEYS[9]  to cancel: the stream on which it is told, if it is
-- ARGV[1]  group
-- ARGV[2]  entry id
-- ARGV[3]  name of the stream, as dead letters have it
-- ARGV[4]  its time in ms: no dead letter of it is older
-- ARGV[5]  most entries to look at in each place
-- ARGV[6]  'event': return the event of what waits as well; or, to cancel it, MessagePack
--          {source, its record as it is known or '', its record from now on, ms that that lives, fields to tell}
-- returns  {'queued'}           never tried; or where more wait than may be looked at
--          {'running'}          in flight
--          {'retrying', n}      waiting for attempt number n
--          {'cancelled'}        it will not run, because of this call or an earlier one
--          {'dead', reason, error, attempts, time}
--          {'settled'}          none of these: nothing more will become of it
--          {'changed'}          to cancel: its record is not the one that was known
--          with 'event' the fields of what waits come behind 'queued' and 'retrying', n, where it was found

local stream, retry, delayed, dead_letters, replayed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, id, name, since, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local cancelled, asked = KEYS[6], ARGV[6]
local BYTES = 2000000 -- about as many in memory at a time: each entry may be large
local fields, member -- of what waits: its event, and what it is in the delayed set

local function position()
  if redis.call('EXISTS', stream) == 0 then return nil end
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local row = {}
    for i = 1, #info, 2 do row[info[i]] = info[i + 1] end
    if row.name == group then return row['last-delivered-id'] end
  end
end

local last = position()

local function look_at_stream()
  if not last or #redis.call('XRANGE', stream, '(' .. last, id, 'COUNT', 1) > 0 then
    local rows = redis.call('XRANGE', stream, id, id)
    fields = rows[1] and rows[1][2]
    return {'queued'}
  end
  if #redis.call('XPENDING', stream, group, id, id, 1) > 0 then return {'running'} end
end

-- Parked: of an entry with these fields the number of its attempt, if it is ours.
local function attempt(parked)
  local at = #parked - 7
  return parked[at] == 'retry.entry' and parked[at + 1] == id and tonumber(parked[at + 3])
end

-- Reads the entries of a stream down to one, newest first, from where it was the last time.
local function downwards(key, to)
  local from = '+'
  return function(_, count)
    local rows = redis.call('XREVRANGE', key, from, to, 'COUNT', count)
    if #rows > 0 then from = '(' .. rows[#rows][1] end
    return rows
  end
end

-- Look at what read(how many were read, how many to read) returns, until look() knows more; or what is said where there
-- are more than may be looked at.
local function look_through(read, look, of_more)
  local page, left = 1, most
  while left > 0 do
    local rows, seen = read(most - left, page), 0
    for _, row in ipairs(rows) do
      local known = look(row)
      if known then return known end
      for _, text in ipairs(type(row) == 'string' and {row} or row[2]) do seen = seen + #text end
    end
    if #rows < page then return nil end
    left = left - #rows
    page = math.max(1, math.min(2 * page, 50, left, math.floor(BYTES * #rows / math.max(1, seen))))
  end
  return of_more
end

local function parked_as(number)
  return number > 1 and {'retrying', number} or {'queued'}
end

local function look_through_retries()
  return look_through(downwards(retry, '-'), function(row)
    local number = attempt(row[2])
    if not number then return nil end
    if #redis.call('XPENDING', retry, group, row[1], row[1], 1) > 0 then return {'running'} end
    fields = row[2]
    return parked_as(number)
  end, {'queued'})
end

local function look_through_delayed()
  return look_through(function(at, count) return redis.call('ZRANGE', delayed, at, at + count - 1) end, function(one)
    local parked = cmsgpack.unpack(one)
    local number = attempt(parked)
    if not number then return nil end
    fields, member = parked, one
    return parked_as(number)
  end, {'queued'})
end

local function look_through_dead_letters()
  return look_through(downwards(dead_letters, since), function(row)
    local values = {}
    for i = 1, #row[2], 2 do values[row[2][i]] = row[2][i + 1] end
    if values['dlq.entry'] == id and values['dlq.group'] == group and values['dlq.stream'] == name
      and redis.call('HEXISTS', replayed, row[1]) == 0 then
      return {'dead', values['dlq.reason'] or '', values['dlq.error'] or '', values['dlq.attempts'] or '',
        values['dlq.time'] or ''}
    end
  end)
end

local standing = look_at_stream() or look_through_retries() or look_through_delayed() or look_through_dead_letters()
  or {'settled'}
local waits = standing[1] == 'queued' or standing[1] == 'retrying'
if waits and redis.call('HEXISTS', cancelled, id) == 1 then return {'cancelled'} end
if not waits or not asked or not fields then return standing end
if asked == 'event' then
  standing[#standing + 1] = fields
  return standing
end

local source, known, record, lifetime, report = unpack(cmsgpack.unpack(asked))
if (redis.call('HGET', KEYS[7], source) or '') ~= known then return {'changed'} end
if member then
  redis.call('ZREM', delayed, member)
else
  redis.call('HSET', cancelled, id, '1')
end
redis.call('DEL', KEYS[8])
redis.call('HSET', KEYS[7], source, record)
redis.call('PEXPIRE', KEYS[7], lifetime)
if KEYS[9] then redis.call('XADD', KEYS[9], '*', unpack(report)) end
return {'cancelled'}
