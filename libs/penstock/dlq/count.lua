-- Count a page of the dead letters by origin, without sending them. Those that were replayed do not count.
--
-- KEYS[1]  dead letter stream
-- KEYS[2]  hash of replayed dead letters: entry id to time
-- ARGV[1]  where to start: '-', or '(' and the last id of the page before
-- ARGV[2]  most entries to look at
-- returns  {entries looked at, where the next page starts, {{stream, group, count} ...}}

local rows = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
local counts, order = {}, {}
for _, row in ipairs(rows) do
  if redis.call('HEXISTS', KEYS[2], row[1]) == 0 then
    local from = {}
    for i = 1, #row[2], 2 do from[row[2][i]] = row[2][i + 1] end
    local stream, group = from['dlq.stream'] or '', from['dlq.group'] or ''
    local key = stream .. '\n' .. group
    if not counts[key] then
      counts[key] = {stream, group, 0}
      order[#order + 1] = counts[key]
    end
    counts[key][3] = counts[key][3] + 1
  end
end
return {#rows, #rows > 0 and '(' .. rows[#rows][1] or ARGV[1], order}
