-- Publish a batch of events in one step, each at most once per dedupe key and the batch once per token.
--
-- Deciding that an event is new and adding it are one step: a claim without its event would lose it.
-- A batch whose reply was lost is sent again with its token, and gets the reply it had. A token does not live for
-- ever, so the batch says until when it may be published: whoever wakes up later than that is told so.
--
-- A publisher that spools numbers its events instead, and the number of the last one that was published is kept for
-- good, in this very step: whatever comes twice, now or after days on its disk, is known by its number.
--
-- KEYS[1]   key of the token, or of the numbers
-- KEYS[2..] every other key of the batch
-- ARGV[1]   how long a token is remembered, in seconds; numbers are for good
-- ARGV[2]   until when the batch may be published, by this server's clock, in ms; 0: this is the first try
-- ARGV[3]   MessagePack, one flat list:
--             key, delay in ms, count, fields, count, {dedupe key, its lifetime in seconds, digest of the payload}
--             for each event, one behind the other; a delay goes with the key of a sorted set
-- ARGV[4]   '' or MessagePack, the number of each event, ascending
-- returns   MessagePack {now, {entry id or '', outcome, ...}}: this server's clock in ms, and for each event
--             outcome 0: published; 1: seen before, the entry id is that event's; 2: the key was used for another
--             payload; 3: its number was passed before this script's last call; a text: why it was refused
-- error     EXPIRED: it is too late to tell whether the batch was published

local MOST_VALUES = 6000 -- Lua's unpack fails near 8,000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local until_ms = tonumber(ARGV[2])
if until_ms > 0 then
  local answered = redis.call('GET', KEYS[1])
  if answered then
    redis.call('EXPIRE', KEYS[1], ARGV[1]) -- a write: WAIT and WAITAOF wait for what this connection wrote
    return cmsgpack.pack({now, cmsgpack.unpack(answered)})
  end
  if now > until_ms then
    return redis.error_reply('EXPIRED nobody knows any more whether this batch was published')
  end
end

-- Events up to number `last` are published; of those of the last call it is known what became of each.
local numbers, last, known, kept = nil, 0, {}, nil
if ARGV[4] ~= '' then
  numbers = cmsgpack.unpack(ARGV[4])
  kept = redis.call('GET', KEYS[1])
  if kept then
    local digits = string.match(kept, '^%d+')
    last = tonumber(digits)
    if numbers[1] <= last then
      local before, answers = unpack(cmsgpack.unpack(string.sub(kept, #digits + 2)))
      for place = 1, #before do
        known[before[place]] = {answers[2 * place - 1], answers[2 * place]}
      end
    end
  end
end

local flat = cmsgpack.unpack(ARGV[3])

-- Return the entry id that a guard has seen, or nil, and whether one has seen another payload.
local function seen_by(from, count)
  local entry
  for at = from, from + 3 * count - 1, 3 do
    local seen = redis.call('GET', flat[at])
    if seen then
      local id, digest = unpack(cmsgpack.unpack(seen))
      if digest ~= flat[at + 2] then return id, true end
      entry = entry or id
    end
  end
  return entry, false
end

-- Return the entry id, or '' for what waits, and why it was refused. What Redis says of all writes is raised.
local function add(key, delay, from, to)
  if to - from >= MOST_VALUES then return '', 'more than ' .. MOST_VALUES / 2 .. ' fields' end
  local reply
  if delay == 0 then
    reply = redis.pcall('XADD', key, '*', unpack(flat, from, to))
  else
    reply = redis.pcall('ZADD', key, now + delay, cmsgpack.pack({unpack(flat, from, to)}))
  end
  if type(reply) ~= 'table' then return delay == 0 and reply or '' end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply) end
  return '', key .. ' holds a ' .. redis.call('TYPE', key).ok .. ', not a ' .. (delay > 0 and 'zset' or 'stream')
end

local answers, at = {}, 1
while at <= #flat do
  local key, delay, count = flat[at], flat[at + 1], flat[at + 2]
  local guards = at + 3 + count
  local number = numbers and numbers[#answers / 2 + 1]
  local entry, outcome
  if number and number <= last then
    entry, outcome = unpack(known[number] or {'', 3})
  else
    entry, outcome = seen_by(guards + 1, flat[guards])
    if outcome then
      outcome = 2
    elseif entry then
      outcome = 1
    else
      entry, outcome = add(key, delay, at + 3, guards - 1)
      outcome = outcome or 0
    end
  end
  if not (number and number <= last) and (outcome == 0 or outcome == 1) then
    for guard = guards + 1, guards + 3 * flat[guards], 3 do
      redis.call('SET', flat[guard], cmsgpack.pack({entry, flat[guard + 2]}), 'EX', flat[guard + 1], 'NX')
    end
  end
  answers[#answers + 1] = entry
  answers[#answers + 1] = outcome
  at = guards + 1 + 3 * flat[guards]
end
if numbers then
  if numbers[#numbers] > last then
    kept = string.format('%.0f ', numbers[#numbers]) .. cmsgpack.pack({numbers, answers})
  end
  redis.call('SET', KEYS[1], kept) -- also if nothing is new: WAIT and WAITAOF wait for what this connection wrote
else
  redis.call('SET', KEYS[1], cmsgpack.pack(answers), 'EX', ARGV[1])
end
return cmsgpack.pack({now, answers})
