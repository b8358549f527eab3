-- Hand pending entries back to their group, through the group's retry stream, where whoever is free
-- reads them next. Moving rather than claiming spreads them over the living and wakes blocked readers.
--
-- An entry that was in hand when its consumer died is suspected of having killed it. The first two deaths
-- may be chance; from then on a suspect runs alone and only the one on trial is charged with the next.
--
-- KEYS[1]  stream (or the retry stream itself)
-- KEYS[2]  the group's retry stream
-- KEYS[3]  dead letter stream
-- KEYS[4]  liveness key of the consumer
-- KEYS[5]  trials: hash of consumer to the entry it runs alone
-- ARGV[1]  group
-- ARGV[2]  consumer ('' with mode stale)
-- ARGV[3]  mode: rescue (the consumer is dead), release (it hands back what it holds), stale (idle entries
--          of anybody: a reply was lost and its reader never noticed)
-- ARGV[4]  most entries to move in this call
-- ARGV[5]  deaths after which an entry goes to the dead letters
-- ARGV[6]  mode stale: how long an entry must have been idle, in ms
-- ARGV[7]  name of the stream, for dead letters
-- ARGV[8]  time, RFC 3339, for dead letters
-- returns  {moved, dead, gone, 1 if the consumer was removed}; {-1} if the consumer is alive after all

local stream, retry, dead_letters, live, trials = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, consumer, mode, limit, most_deaths = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])

if mode == 'rescue' and redis.call('EXISTS', live) == 1 then return {-1} end

local pending
if mode == 'stale' then
  pending = redis.call('XPENDING', stream, group, 'IDLE', ARGV[6], '-', '+', limit)
else
  pending = redis.call('XPENDING', stream, group, '-', '+', limit, consumer)
end
local trial = redis.call('HGET', trials, consumer)

local function with(fields, set)
  local merged = {}
  for i = 1, math.min(#fields, 6000), 2 do
    if set[fields[i]] == nil then
      merged[#merged + 1] = fields[i]
      merged[#merged + 1] = fields[i + 1]
    end
  end
  for name, value in pairs(set) do
    merged[#merged + 1] = name
    merged[#merged + 1] = value
  end
  return merged
end

local function field(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
end

-- On any stream but the retry stream these fields are the producer's own, and mean nothing to us.
local function own(fields, name)
  return stream == retry and field(fields, name) or nil
end

local moved, dead, gone = 0, 0, 0
for _, row in ipairs(pending) do
  local id = row[1]
  local found = redis.call('XRANGE', stream, id, id)[1]
  if not found then
    gone = gone + 1
  else
    local fields = found[2]
    local deaths = tonumber(own(fields, 'retry.crashes') or 0) or 0
    local origin = own(fields, 'retry.entry') or id
    local attempt = own(fields, 'attempt') or '1'
    if mode == 'rescue' and (deaths < most_deaths - 1 or trial == id) then deaths = deaths + 1 end
    if deaths >= most_deaths then
      dead = dead + 1
      redis.call('XADD', dead_letters, '*', unpack(with(fields, {
        ['dlq.stream'] = ARGV[7], ['dlq.group'] = group, ['dlq.entry'] = origin,
        ['dlq.reason'] = 'crashed', ['dlq.attempts'] = attempt, ['dlq.time'] = ARGV[8],
        ['dlq.error'] = 'the process died ' .. deaths .. ' times with this event in hand, the last time alone',
        ['dlq.fingerprint'] = 'crashed:' .. (field(fields, 'type') or ''),
        ['dlq.traceparent'] = '', ['dlq.traceback'] = '',
      })))
    else
      moved = moved + 1
      redis.call('XADD', retry, '*', unpack(with(fields, {
        ['retry.entry'] = origin, ['attempt'] = attempt, ['retry.crashes'] = tostring(deaths),
      })))
    end
  end
  if trial == id then redis.call('HDEL', trials, consumer) end
  redis.call('XACK', stream, group, id)
  if stream == retry then redis.call('XDEL', stream, id) end
end

local removed = 0
if mode ~= 'stale' and #redis.call('XPENDING', stream, group, '-', '+', 1, consumer) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
  removed = 1
end
return {moved, dead, gone, removed}
