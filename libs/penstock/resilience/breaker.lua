-- One step of a circuit breaker that all processes share.
--
-- closed:    calls pass; `threshold` failures within the window open it.
-- open:      calls are refused until the recovery time is over (never, if an operator opened it).
-- half_open: at most `probes` calls pass over the whole fleet; as many successes close it, one failure opens it.
--
-- KEYS[1]  breaker: hash of state, until, failure_count, success_count, epoch, forced, recovered
-- KEYS[2]  failures: sorted set of failure ids by time, within the window
-- KEYS[3]  probes: sorted set of probe ids by the time at which each is given up for lost
-- KEYS[4]  set of the names of all breakers
-- KEYS[5]  stream that transitions are published to
-- ARGV[1]  command: look | admit | success | failure | open | close
-- ARGV[2]  name
-- ARGV[3]  now in ms, or '' for the server's own clock
-- ARGV[4]  threshold
-- ARGV[5]  window in ms
-- ARGV[6]  recovery time in ms
-- ARGV[7]  probes
-- ARGV[8]  id of the call (admit, success, failure); successes since the last look (look)
-- ARGV[9]  service that asks, for the transition event
-- ARGV[10] why, in words (failure, open, close)
-- ARGV[11] '1' if transitions are published
-- returns  {state, ms until it is worth asking again, 1 if the call may pass}

local command, name, id = ARGV[1], ARGV[2], ARGV[8]
local threshold, window, recovery, probes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local now = tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local stored = redis.call('HMGET', KEYS[1], 'state', 'until', 'forced', 'recovered')
local state, until_ms = stored[1] or 'closed', tonumber(stored[2] or 0)
local forced, recovered = stored[3] == '1', tonumber(stored[4] or 0)
redis.call('SADD', KEYS[4], name)

local function become(new, why)
  local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  until_ms = new == 'open' and not forced and now + recovery or 0
  recovered = 0
  redis.call('HSET', KEYS[1], 'state', new, 'until', until_ms, 'forced', forced and '1' or '0', 'recovered', 0,
    'since', now, 'why', why)
  redis.call('DEL', KEYS[3])
  if new == 'closed' then redis.call('DEL', KEYS[2]) end
  if ARGV[11] == '1' then
    local data = {name = name, from = state, to = new, reason = why, epoch = epoch}
    redis.call('XADD', KEYS[5], '*', 'type', 'breaker.' .. (new == 'open' and 'opened' or new),
      'data', cjson.encode(data), 'id', 'breaker-' .. name .. '-' .. epoch, 'source', ARGV[9], 'subject', name)
  end
  state = new
end

if state == 'open' and not forced and now >= until_ms then
  become('half_open', 'the recovery time is over')
end

if command == 'look' then
  if tonumber(id) > 0 then redis.call('HINCRBY', KEYS[1], 'success_count', id) end
elseif command == 'success' then
  redis.call('HINCRBY', KEYS[1], 'success_count', 1)
  if state == 'half_open' and redis.call('ZREM', KEYS[3], id) == 1 then
    recovered = redis.call('HINCRBY', KEYS[1], 'recovered', 1)
    if recovered >= probes then become('closed', recovered .. ' probes succeeded') end
  end
elseif command == 'failure' then
  redis.call('HINCRBY', KEYS[1], 'failure_count', 1)
  if state == 'closed' then
    redis.call('ZADD', KEYS[2], now, id)
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - window)
    redis.call('PEXPIRE', KEYS[2], window)
    local failures = redis.call('ZCARD', KEYS[2])
    if failures >= threshold then
      become('open', failures .. ' failures in ' .. window / 1000 .. ' s, the last: ' .. ARGV[10])
    end
  elseif state == 'half_open' and redis.call('ZREM', KEYS[3], id) == 1 then
    become('open', 'a probe failed: ' .. ARGV[10])
  end
elseif command == 'open' then
  forced = true
  if state == 'open' then redis.call('HSET', KEYS[1], 'forced', '1', 'until', 0) else become('open', ARGV[10]) end
elseif command == 'close' then
  forced = false
  if state ~= 'closed' then become('closed', ARGV[10]) end
end

local allowed = state == 'closed' and 1 or 0
if command == 'admit' and state == 'half_open' then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
  if redis.call('ZCARD', KEYS[3]) + recovered < probes then
    redis.call('ZADD', KEYS[3], now + recovery, id)
    allowed = 1
  end
end
local wait = 0
if state == 'open' then wait = forced and recovery or math.max(1, until_ms - now) end
if state == 'half_open' and allowed == 0 then wait = 1000 end
return {state, wait, allowed}
