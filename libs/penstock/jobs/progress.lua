-- Where a group stands with one entry of a stream, which must be there.
--
-- KEYS[1]  stream
-- KEYS[2]  the group's retry stream for it
-- KEYS[3]  the group's delayed set for it
-- KEYS[4]  dead letter stream
-- KEYS[5]  hash of replayed dead letters: entry id to time
-- ARGV[1]  group
-- ARGV[2]  entry id
-- ARGV[3]  name of the stream, as dead letters have it
-- ARGV[4]  its time in ms: no dead letter of it is older
-- ARGV[5]  most entries to look at in each place
-- returns  {'queued'}           never tried; or where more wait than may be looked at
--          {'running'}          in flight
--          {'retrying', n}      waiting for attempt number n
--          {'dead', reason, error, attempts, time}
--          {'settled'}          none of these: nothing more will become of it

local stream, retry, delayed, dead_letters, replayed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, id, name, since, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local PAGE = 50 -- entries in memory at a time: each may be large

local function position()
  if redis.call('EXISTS', stream) == 0 then return nil end
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local row = {}
    for i = 1, #info, 2 do row[info[i]] = info[i + 1] end
    if row.name == group then return row['last-delivered-id'] end
  end
end

local last = position()
if not last or #redis.call('XRANGE', stream, '(' .. last, id, 'COUNT', 1) > 0 then return {'queued'} end
if #redis.call('XPENDING', stream, group, id, id, 1) > 0 then return {'running'} end

-- Parked: of an entry with these fields the number of its attempt, if it is ours.
local function attempt(fields)
  local at = #fields - 7
  return fields[at] == 'retry.entry' and fields[at + 1] == id and tonumber(fields[at + 3])
end

local function look_through_retries()
  local from, left = '+', most
  while left > 0 do
    local rows = redis.call('XREVRANGE', retry, from, '-', 'COUNT', math.min(PAGE, left))
    for _, row in ipairs(rows) do
      local number = attempt(row[2])
      if number then
        if #redis.call('XPENDING', retry, group, row[1], row[1], 1) > 0 then return {'running'} end
        return number > 1 and {'retrying', number} or {'queued'}
      end
    end
    if #rows < PAGE then return nil end
    from, left = '(' .. rows[#rows][1], left - #rows
  end
  return {'queued'}
end

local function look_through_delayed()
  local at = 0
  while at < most do
    local members = redis.call('ZRANGE', delayed, at, at + PAGE - 1)
    for _, member in ipairs(members) do
      local number = attempt(cmsgpack.unpack(member))
      if number then return number > 1 and {'retrying', number} or {'queued'} end
    end
    if #members < PAGE then return nil end
    at = at + PAGE
  end
  return {'queued'}
end

local function look_through_dead_letters()
  local from, left = '+', most
  while left > 0 do
    local rows = redis.call('XREVRANGE', dead_letters, from, since, 'COUNT', math.min(PAGE, left))
    for _, row in ipairs(rows) do
      local values = {}
      for i = 1, #row[2], 2 do values[row[2][i]] = row[2][i + 1] end
      if values['dlq.entry'] == id and values['dlq.group'] == group and values['dlq.stream'] == name
        and redis.call('HEXISTS', replayed, row[1]) == 0 then
        return {'dead', values['dlq.reason'] or '', values['dlq.error'] or '', values['dlq.attempts'] or '',
          values['dlq.time'] or ''}
      end
    end
    if #rows < PAGE then return nil end
    from, left = '(' .. rows[#rows][1], left - #rows
  end
end

return look_through_retries() or look_through_delayed() or look_through_dead_letters() or {'settled'}
