-- A service has another name now: move what its former group tries again to its own, a page at a time.
--
-- KEYS[1]  retry stream of the former group
-- KEYS[2]  ... and of the new one
-- KEYS[3]  delayed set of the former group
-- KEYS[4]  ... and of the new one
-- ARGV[1]  most of each to move in this call
-- ARGV[2]  1: the former group is no more, and its retry stream goes with it
--          0: not if there is a group on its retry stream, which somebody may read
-- ARGV[3]  about how many bytes of each to move in this call
-- returns  how many were moved

if ARGV[2] == '0' and #redis.pcall('XINFO', 'GROUPS', KEYS[1]) > 0 then return 0 end
local most, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[3])
local moved, bytes = 0, 0
while moved < most and bytes < most_bytes do
  local entry = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  if not entry then break end
  redis.call('XADD', KEYS[2], '*', unpack(entry[2]))
  redis.call('XDEL', KEYS[1], entry[1])
  moved = moved + 1
  for _, text in ipairs(entry[2]) do bytes = bytes + #text end
end
local put_off = 0
bytes = 0
while put_off < most and bytes < most_bytes do
  local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  if not first[1] then break end
  redis.call('ZADD', KEYS[4], first[2], first[1])
  redis.call('ZREM', KEYS[3], first[1])
  put_off = put_off + 1
  bytes = bytes + #first[1]
end
moved = moved + put_off
if redis.call('XLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[1]) end
return moved
