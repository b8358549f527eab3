-- An attempt failed: let others have the log, and obey what the other side asked for.
--
-- KEYS[1]  log: hash
-- KEYS[2]  until when the target is not to be used, in ms
-- KEYS[3]  ... gates
-- ARGV[1]  id of the delivery
-- ARGV[2]  Retry-After in ms, -1 if there was none
-- returns  ms until the log's own slot, which is exactly when the other side said

local log, after = KEYS[1], tonumber(ARGV[2])
if redis.call('HGET', log, 'holder') == ARGV[1] then redis.call('HDEL', log, 'holder', 'held_until') end
if after < 0 then return 0 end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local slot = now + after
if after > 0 and slot > tonumber(redis.call('GET', KEYS[2]) or 0) then
  redis.call('SET', KEYS[2], slot, 'PX', after)
end
redis.call('HSET', log, 'slot', slot)
for i = 3, #KEYS do -- it counts for the rate, though it does not wait for it
  local last = tonumber(redis.call('LINDEX', KEYS[i], -1) or 0)
  local ttl = redis.call('PTTL', KEYS[i])
  redis.call('RPUSH', KEYS[i], math.max(slot, last))
  redis.call('PEXPIRE', KEYS[i], math.max(after, ttl))
end
return after
