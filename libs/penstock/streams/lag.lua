-- Count entries between two ids, without sending them.
--
-- KEYS[1]  stream
-- ARGV[1]  first id, as XRANGE takes it
-- ARGV[2]  last id, as XRANGE takes it
-- ARGV[3]  most entries to count
-- ARGV[4]  bytes: it ends early once it has looked at as many
-- returns  {entries counted, id of the last of them, or '', whether there are none beyond}

local from, most, bytes = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local counted, seen, last = 0, 0, ''
local page, is_all = 1, 0 -- entries in memory at a time: each may be large
while counted < most and seen < bytes and is_all == 0 do
  local wanted = math.min(page, most - counted)
  local rows = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', wanted)
  for _, row in ipairs(rows) do
    last = row[1]
    for _, text in ipairs(row[2]) do seen = seen + #text end
  end
  counted = counted + #rows
  if #rows < wanted or last == ARGV[2] then is_all = 1 end
  from = '(' .. last
  page = math.max(1, math.min(2 * page, 50, math.floor(bytes * counted / math.max(1, seen))))
end
return {counted, last, is_all}
