-- Count entries between two ids, without sending them.
--
-- KEYS[1]  stream
-- ARGV[1]  first id, as XRANGE takes it
-- ARGV[2]  last id, as XRANGE takes it
-- ARGV[3]  most entries to count
-- returns  {entries counted, id of the last of them, or ''}

local PAGE = 50 -- entries in memory at a time: each may be large
local from, left, last = ARGV[1], tonumber(ARGV[3]), ''
while left > 0 do
  local rows = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', math.min(PAGE, left))
  if #rows == 0 then break end
  left = left - #rows
  last = rows[#rows][1]
  from = '(' .. last
end
return {ARGV[3] - left, last}
