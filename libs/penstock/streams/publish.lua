-- Publish a batch of events in one step, each at most once per dedupe key and the batch once per token.
--
-- Deciding that an event is new and adding it are one step: a claim without its event would lose it.
-- A batch whose reply was lost is sent again with its token, and gets the reply it had.
--
-- KEYS[1]  key of the token
-- ARGV[1]  how long a token is remembered, in seconds
-- ARGV[2]  MessagePack {event ...}
--            event {stream key, fields, delay in ms, {guard ...}}; a delay goes with the key of a sorted set
--            guard {dedupe key, its lifetime in seconds, digest of the payload}
-- returns  MessagePack {answer ...}
--            answer {entry id or '', outcome}, outcome 0: published; 1: seen before, the entry id is that
--            event's; 2: the key was used for another payload; a text: why it was refused

local answered = redis.call('GET', KEYS[1])
if answered then
  redis.call('EXPIRE', KEYS[1], ARGV[1]) -- a write: WAIT and WAITAOF wait for what this connection wrote
  return answered
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function refusal(event)
  local kind = redis.call('TYPE', event[1]).ok
  local wanted = event[3] > 0 and 'zset' or 'stream'
  if kind ~= 'none' and kind ~= wanted then return event[1] .. ' holds a ' .. kind .. ', not a ' .. wanted end
  if #event[2] > 6000 then return 'more than 3000 fields' end
end

-- Return the entry id that a guard has seen, or nil, and whether one has seen another payload.
local function seen_by(guards)
  local entry
  for _, guard in ipairs(guards) do
    local seen = redis.call('GET', guard[1])
    if seen then
      local id, digest = unpack(cmsgpack.unpack(seen))
      if digest ~= guard[3] then return id, true end
      entry = entry or id
    end
  end
  return entry, false
end

local function add(key, fields, delay)
  if delay == 0 then return redis.call('XADD', key, '*', unpack(fields)) end
  redis.call('ZADD', key, now + delay, cmsgpack.pack(fields))
  return ''
end

local function publish(event)
  local key, fields, delay, guards = unpack(event)
  local why = refusal(event)
  if why then return {'', why} end
  local seen, conflict = seen_by(guards)
  if conflict then return {seen, 2} end
  local entry = seen or add(key, fields, delay)
  for _, guard in ipairs(guards) do
    redis.call('SET', guard[1], cmsgpack.pack({entry, guard[3]}), 'EX', guard[2], 'NX')
  end
  return {entry, seen and 1 or 0}
end

local answers = {}
for index, event in ipairs(cmsgpack.unpack(ARGV[2])) do
  answers[index] = publish(event)
end
local packed = cmsgpack.pack(answers)
redis.call('SET', KEYS[1], packed, 'EX', ARGV[1])
return packed
