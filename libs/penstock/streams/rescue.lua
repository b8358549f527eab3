-- Hand pending entries back to their group, through the group's retry stream, where whoever is free
-- reads them next. Moving rather than claiming spreads them over the living and wakes blocked readers.
--
-- An entry that was in flight when its consumer died is suspected of having killed it. The first two deaths
-- may be chance; from then on a suspect runs alone and only the one in quarantine is charged with the next. That one is
-- handed back too: who reads it next settles it as dead, with all that is to be told of it. If that process dies as
-- well, reading it may be what kills, and it goes to the dead letters from here.
--
-- KEYS[1]  stream (or the retry stream itself)
-- KEYS[2]  the group's retry stream
-- KEYS[3]  dead letter stream
-- KEYS[4]  last beat of each consumer
-- KEYS[5]  quarantine: hash of consumer to the entry it runs alone
-- ARGV[1]  group
-- ARGV[2]  consumer ('' with mode stale)
-- ARGV[3]  mode: rescue (the consumer is dead), expired (it has been silent for its lease, or has given up),
--          release (it hands back what it holds), stale (idle entries of anybody: a reply was lost and its
--          reader never noticed), some (it hands back these, and stays)
-- ARGV[4]  modes rescue and expired: its last beat as it was when that was found out, '' for none
-- ARGV[5]  most entries to move in this call
-- ARGV[6]  about how many bytes to move in this call
-- ARGV[7]  deaths that condemn an entry
-- ARGV[8]  mode stale: how long an entry must have been idle, in ms
-- ARGV[9]  name of the stream, for dead letters
-- ARGV[10] time, RFC 3339, for dead letters
-- ARGV[11..] mode some: the entry ids
-- returns  {moved, dead, gone, 1 if the consumer was removed}; {-1} if it has beaten since

local stream, retry, dead_letters, beats, quarantine = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, consumer, mode, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local most_bytes, most_deaths = tonumber(ARGV[6]), tonumber(ARGV[7])
local MOST_VALUES = 6000 -- Lua's unpack fails near 8,000
local GONE_MS = 86400000 -- no beat keeps what is gone from the stream from idling: for so long somebody may work on it

if (mode == 'rescue' or mode == 'expired') and (redis.call('HGET', beats, consumer) or '') ~= ARGV[4] then return {-1} end

local pending
if mode == 'stale' then
  pending = redis.call('XPENDING', stream, group, 'IDLE', ARGV[8], '-', '+', limit)
elseif mode == 'some' then
  pending = {}
  for i = 11, #ARGV do
    pending[#pending + 1] = redis.call('XPENDING', stream, group, ARGV[i], ARGV[i], 1, consumer)[1]
  end
else
  pending = redis.call('XPENDING', stream, group, '-', '+', limit, consumer)
end
local quarantined = redis.call('HGET', quarantine, consumer)

-- What parking has put behind an entry's own fields; on any stream but the retry stream all are its own.
local function parked(fields)
  local at = #fields - 7
  if stream ~= retry or fields[at] ~= 'retry.entry' then return #fields, {} end
  return at - 1, {entry = fields[at + 1], attempt = fields[at + 3], crashes = fields[at + 5], error = fields[at + 7]}
end

local function own_fields(fields, count)
  local own = {}
  if count > MOST_VALUES then -- too many for one XADD: they travel in one
    for i = 1, count do own[i] = #fields[i] .. ':' .. fields[i] end
    return {'retry.fields', table.concat(own)}
  end
  for i = 1, count do own[i] = fields[i] end
  return own
end

local function append(list, more)
  for i = 1, #more do list[#list + 1] = more[i] end
  return list
end

local function type_of(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'type' then return fields[i + 1] end
  end
  return ''
end

local moved, dead, gone, bytes = 0, 0, 0, 0
for _, row in ipairs(pending) do
  if bytes > most_bytes then break end
  local id = row[1]
  local found = redis.call('XRANGE', stream, id, id)[1]
  local kept = not found and mode == 'stale' and row[3] < GONE_MS
  if kept then
    -- whoever works on it has its data, and settles it
  elseif not found then
    gone = gone + 1
  else
    local fields = found[2]
    for i = 1, #fields do bytes = bytes + #fields[i] end
    local count, before = parked(fields)
    local own = own_fields(fields, count)
    local deaths = tonumber(before.crashes or 0) or 0
    local origin, attempt = before.entry or id, before.attempt or '1'
    local condemned = deaths >= most_deaths
    if mode == 'rescue' and (deaths < most_deaths - 1 or quarantined == id) then deaths = deaths + 1 end
    if condemned and mode == 'rescue' then
      dead = dead + 1
      redis.call('XADD', dead_letters, '*', unpack(append(own, {
        'dlq.stream', ARGV[9], 'dlq.group', group, 'dlq.entry', origin, 'dlq.reason', 'crashed',
        'dlq.error', 'the process died ' .. deaths .. ' times with this event in flight, the last time on reading it',
        'dlq.attempts', attempt, 'dlq.time', ARGV[10], 'dlq.fingerprint', 'crashed:' .. string.sub(type_of(fields), 1, 255),
        'dlq.traceparent', '', 'dlq.traceback', '',
      })))
    else
      moved = moved + 1
      redis.call('XADD', retry, '*', unpack(append(own, {
        'retry.entry', origin, 'attempt', attempt, 'retry.crashes', tostring(deaths),
        'retry.error', before.error or '',
      })))
    end
  end
  if not kept then
    if quarantined == id then redis.call('HDEL', quarantine, consumer) end
    redis.call('XACK', stream, group, id)
    if stream == retry then redis.call('XDEL', stream, id) end
  end
end

local removed = 0
if mode ~= 'stale' and mode ~= 'some' and #redis.call('XPENDING', stream, group, '-', '+', 1, consumer) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
  removed = 1
end
return {moved, dead, gone, removed}
