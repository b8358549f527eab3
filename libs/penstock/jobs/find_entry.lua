-- Find an entry by its id, without sending what it holds. An entry without an id of its own has that of
-- its place: the stream's name and its entry id.
--
-- KEYS[1]  stream
-- ARGV[1]  name of the stream, as ids have it
-- ARGV[2]  id
-- ARGV[3]  entry id to search from
-- ARGV[4]  entry id to search up or down to
-- ARGV[5]  most entries to look at
-- ARGV[6]  XRANGE: from the oldest on, or XREVRANGE: from the newest on
-- ARGV[7]  the source of entries without one
-- ARGV[8]  source, if only that one is meant
-- returns  {entry id, type, tenant, source}, or nil

local BYTES = 2000000
local from, left = ARGV[3], tonumber(ARGV[5])
local page = 1 -- entries in memory at a time: each may be large
while left > 0 do
  local rows, seen = redis.call(ARGV[6], KEYS[1], from, ARGV[4], 'COUNT', page), 0
  for _, row in ipairs(rows) do
    local fields = {}
    for i = 1, #row[2], 2 do fields[row[2][i]] = row[2][i + 1] end
    for _, text in ipairs(row[2]) do seen = seen + #text end
    local own = fields['id'] or ''
    if own == '' then own = ARGV[1] .. '-' .. row[1] end
    local source = fields['source'] or ''
    if source == '' then source = ARGV[7] end
    if own == ARGV[2] and (not ARGV[8] or source == ARGV[8]) then
      return {row[1], fields['type'] or '', fields['tenant'] or '', source}
    end
  end
  if #rows < page then return nil end
  from = '(' .. rows[#rows][1]
  left = left - #rows
  page = math.max(1, math.min(2 * page, 50, left, math.floor(BYTES * #rows / math.max(1, seen))))
end
return nil
