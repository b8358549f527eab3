-- Says that a process lives, which keeps its connections known; forgets processes that have not said so for a lifetime.
-- KEYS: the processes by their last beat (ms), the connections of this process
-- ARGV: the process, a lifetime in ms
-- Returns how many connections of this process are known.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, ARGV[2])
end
return redis.call('HLEN', KEYS[2])
