-- Read chosen fields of entries: payloads, which may be large, stay where they are.
--
-- KEYS[1]  stream, or sorted set of MessagePack fields by due time in ms
-- ARGV[1]  a stream: the newest id to read ('+', or '(' and an id, or an id); a sorted set: how many to pass over
-- ARGV[2]  a stream: the oldest id to read
-- ARGV[3]  most entries to read
-- ARGV[4]  ... names of fields
-- returns  {row ...}, of a stream the newest first, of a sorted set the soonest due
--            row {entry id or due time, value ...} in the order of the names, '' where there is none

local LONGEST = 4000 -- bytes of a value; ids and types are far shorter, errors are cut to half of it

local function chosen(key, fields)
  local values = {}
  for i = 1, #fields, 2 do values[fields[i]] = fields[i + 1] end
  local row = {key}
  for i = 4, #ARGV do row[#row + 1] = string.sub(values[ARGV[i]] or '', 1, LONGEST) end
  return row
end

local rows = {}
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'stream' then
  for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])) do
    rows[#rows + 1] = chosen(entry[1], entry[2])
  end
elseif kind == 'zset' then
  local members = redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[1] + ARGV[3] - 1, 'WITHSCORES')
  for i = 1, #members, 2 do
    rows[#rows + 1] = chosen(members[i + 1], cmsgpack.unpack(members[i]))
  end
end
return rows
