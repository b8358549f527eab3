-- One step of a circuit breaker that all processes share.
--
-- closed:    calls pass; it opens when `threshold` of them failed in a row, over the whole fleet, or when so large a
--            share of the calls within the window failed, once there were enough of them to say.
-- open:      calls are refused until the recovery time is over (never, if an operator opened it).
-- half_open: at most `probes` calls pass over the whole fleet; as many successes close it, one failure opens it.
--
-- KEYS[1]  breaker: hash of state, until, failure_count, success_count, epoch, forced, recovered, streak, failed_at
-- KEYS[2]  calls: hash of how many succeeded ('s:') and failed ('f:') in each tenth of a window, within the window
-- KEYS[3]  probes: sorted set of probe ids by the time at which each is given up for lost
-- KEYS[4]  set of the names of all breakers
-- KEYS[5]  stream that transitions are published to
-- ARGV[1]  command: look | admit | success | failure | open | close
-- ARGV[2]  name
-- ARGV[3]  now in ms, or '' for the server's own clock
-- ARGV[4]  threshold: failures in a row
-- ARGV[5]  window in ms
-- ARGV[6]  recovery time in ms
-- ARGV[7]  probes
-- ARGV[8]  share of failed calls, 0 to 1
-- ARGV[9]  least number of calls within the window for that share to count
-- ARGV[10] id of the call (admit, success, failure)
-- ARGV[11] calls of this process that have succeeded since it last said so (look, failure)
-- ARGV[12] service that asks, for the transition event
-- ARGV[13] why, in words (failure, open, close)
-- ARGV[14] '1' if transitions are published
-- returns  {state, ms until it is worth asking again, 1 if the call may pass}

local command, name, id, succeeded, why = ARGV[1], ARGV[2], ARGV[10], tonumber(ARGV[11]), ARGV[13]
local threshold, window, recovery, probes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local share, least = tonumber(ARGV[8]), tonumber(ARGV[9])
local now = tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local stored = redis.call('HMGET', KEYS[1], 'state', 'until', 'forced', 'recovered', 'failed_at')
local state, until_ms = stored[1] or 'closed', tonumber(stored[2] or 0)
local forced, recovered = stored[3] == '1', tonumber(stored[4] or 0)
redis.call('SADD', KEYS[4], name)

local function become(new, reason)
  local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  until_ms = new == 'open' and not forced and now + recovery or 0
  recovered = 0
  redis.call('HSET', KEYS[1], 'state', new, 'until', until_ms, 'forced', forced and '1' or '0', 'recovered', 0,
    'since', now, 'why', reason, 'streak', 0)
  redis.call('DEL', KEYS[3])
  if new == 'closed' then redis.call('DEL', KEYS[2]) end
  if ARGV[14] == '1' then
    local data = {name = name, from = state, to = new, reason = reason, epoch = epoch}
    redis.call('XADD', KEYS[5], '*', 'type', 'breaker.' .. (new == 'open' and 'opened' or new),
      'data', cjson.encode(data), 'id', 'breaker-' .. name .. '-' .. epoch, 'source', ARGV[12], 'subject', name)
  end
  state = new
end

if until_ms > now + recovery then -- the clock has gone back
  until_ms = now + recovery
  redis.call('HSET', KEYS[1], 'until', until_ms)
end
if state == 'open' and not forced and now >= until_ms then
  become('half_open', 'the recovery time is over')
end

-- Count calls into the part of the window that is now, and forget the parts that are over.
local part = math.floor(now / (window / 10))
local function count(kind, by)
  redis.call('HINCRBY', KEYS[2], kind .. part, by)
  redis.call('PEXPIRE', KEYS[2], window)
end

-- Say why so many failures are too many, if they are.
local function excess()
  local calls, failures = 0, 0
  local parts = redis.call('HGETALL', KEYS[2])
  for i = 1, #parts, 2 do
    local kind, at = string.match(parts[i], '^(%a:)(%d+)$')
    if tonumber(at) <= part - 10 or tonumber(at) > part then
      redis.call('HDEL', KEYS[2], parts[i])
    else
      calls = calls + parts[i + 1]
      if kind == 'f:' then failures = failures + parts[i + 1] end
    end
  end
  local streak = redis.call('HINCRBY', KEYS[1], 'streak', 1)
  if streak >= threshold then return streak .. ' failures in a row' end
  if calls >= least and failures >= share * calls then
    return failures .. ' of ' .. calls .. ' calls failed within ' .. window / 1000 .. ' s'
  end
end

if command == 'success' then succeeded = succeeded + 1 end
if succeeded > 0 then
  redis.call('HINCRBY', KEYS[1], 'success_count', succeeded)
  redis.call('HSET', KEYS[1], 'streak', 0)
  count('s:', succeeded)
end
if command == 'success' then
  if state == 'half_open' and redis.call('ZREM', KEYS[3], id) == 1 then
    recovered = redis.call('HINCRBY', KEYS[1], 'recovered', 1)
    if recovered >= probes then become('closed', recovered .. ' probes succeeded') end
  end
elseif command == 'failure' then
  redis.call('HINCRBY', KEYS[1], 'failure_count', 1)
  if state == 'closed' then
    if now - tonumber(stored[5] or 0) > window then redis.call('HSET', KEYS[1], 'streak', 0) end
    redis.call('HSET', KEYS[1], 'failed_at', now)
    count('f:', 1)
    local too_many = excess()
    if too_many then become('open', too_many .. ', the last: ' .. why) end
  elseif state == 'half_open' and redis.call('ZREM', KEYS[3], id) == 1 then
    become('open', 'a probe failed: ' .. why)
  end
elseif command == 'open' then
  forced = true
  if state == 'open' then redis.call('HSET', KEYS[1], 'forced', '1', 'until', 0) else become('open', why) end
elseif command == 'close' then
  forced = false
  if state ~= 'closed' then become('closed', why) end
end

local allowed = state == 'closed' and 1 or 0
if command == 'admit' and state == 'half_open' then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '(' .. now + recovery, '+inf') -- the clock has gone back
  if redis.call('ZCARD', KEYS[3]) + recovered < probes then
    redis.call('ZADD', KEYS[3], now + recovery, id)
    allowed = 1
  end
end
local wait = 0
if state == 'open' then wait = forced and recovery or math.max(1, until_ms - now) end
if state == 'half_open' and allowed == 0 then wait = 1000 end
return {state, wait, allowed}
