-- A service has another name now: move what its former group tries again to its own, a page at a time.
--
-- KEYS[1]  retry stream of the former group
-- KEYS[2]  ... and of the new one
-- KEYS[3]  delayed set of the former group
-- KEYS[4]  ... and of the new one
-- ARGV[1]  most of each to move in this call
-- ARGV[2]  1: the former group is no more, and its retry stream goes with it
--          0: not if there is a group on its retry stream, which somebody may read
-- returns  how many were moved

if ARGV[2] == '0' and #redis.pcall('XINFO', 'GROUPS', KEYS[1]) > 0 then return 0 end
local moved = 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[1])) do
  redis.call('XADD', KEYS[2], '*', unpack(entry[2]))
  redis.call('XDEL', KEYS[1], entry[1])
  moved = moved + 1
end
local delayed = redis.call('ZRANGE', KEYS[3], 0, ARGV[1] - 1, 'WITHSCORES')
for i = 1, #delayed, 2 do
  redis.call('ZADD', KEYS[4], delayed[i + 1], delayed[i])
  redis.call('ZREM', KEYS[3], delayed[i])
  moved = moved + 1
end
if redis.call('XLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[1]) end
return moved
