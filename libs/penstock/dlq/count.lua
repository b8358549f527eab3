-- Count a page of the dead letters by origin, without sending them. Those that were replayed do not count.
--
-- KEYS[1]  dead letter stream
-- KEYS[2]  hash of replayed dead letters: entry id to time
-- ARGV[1]  where to start: '-', or '(' and the last id of the page before
-- ARGV[2]  most entries to look at
-- ARGV[3]  bytes: it ends early once it has looked at as many
-- returns  {1 if there are none beyond, where the next page starts, {{stream, group, count} ...}}

local from, most, bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local counts, order = {}, {}
local function look(row)
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

local looked, seen, is_all = 0, 0, 0
local page = 1 -- entries in memory at a time: each may be large
while looked < most and seen < bytes and is_all == 0 do
  local rows = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', page)
  for _, row in ipairs(rows) do
    look(row)
    for _, text in ipairs(row[2]) do seen = seen + #text end
    from = '(' .. row[1]
  end
  looked = looked + #rows
  if #rows < page then is_all = 1 end
  page = math.max(1, math.min(2 * page, 50, math.floor(bytes * looked / math.max(1, seen))))
end
return {is_all, from, order}
