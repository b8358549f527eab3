-- Publish a batch of events in one step, each at most once per dedupe key and the batch once per token.
--
-- Deciding that an event is new and adding it are one step: a claim without its event would lose it.
-- A batch whose reply was lost is sent again with its token, and gets the reply it had.
--
-- KEYS[1]  key of the token
-- ARGV[1]  how long a token is remembered, in seconds
-- ARGV[2]  MessagePack {event ...}
--            event {stream key, fields, delay in ms, dedupe key or '', its lifetime in seconds, digest of the payload}
--            a delay goes with the key of a sorted set
-- returns  MessagePack {answer ...}
--            answer {entry id or '', outcome}, outcome 0: published; 1: seen before, the entry id is that
--            event's; 2: the key was used for another payload; a text: why it was refused

local answered = redis.call('GET', KEYS[1])
if answered then return answered end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function refusal(event)
  local kind = redis.call('TYPE', event[1]).ok
  local wanted = event[3] > 0 and 'zset' or 'stream'
  if kind ~= 'none' and kind ~= wanted then return event[1] .. ' holds a ' .. kind .. ', not a ' .. wanted end
  if #event[2] > 6000 then return 'more than 3000 fields' end
end

local function publish(event)
  local key, fields, delay, dedupe, lifetime, digest = unpack(event)
  local why = refusal(event)
  if why then return {'', why} end
  if dedupe ~= '' then
    local seen = redis.call('GET', dedupe)
    if seen then
      local known = cmsgpack.unpack(seen)
      return {known[1], known[2] == digest and 1 or 2}
    end
  end
  local entry = ''
  if delay > 0 then
    redis.call('ZADD', key, now + delay, cmsgpack.pack(fields))
  else
    entry = redis.call('XADD', key, '*', unpack(fields))
  end
  if dedupe ~= '' then
    redis.call('SET', dedupe, cmsgpack.pack({entry, digest}), 'EX', lifetime)
  end
  return {entry, 0}
end

local answers = {}
for index, event in ipairs(cmsgpack.unpack(ARGV[2])) do
  answers[index] = publish(event)
end
local packed = cmsgpack.pack(answers)
redis.call('SET', KEYS[1], packed, 'EX', ARGV[1])
return packed
