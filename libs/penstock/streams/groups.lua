-- Make a group, unless it is there: where it stood if that is known, else where a new one is to begin.
--
-- KEYS[1]  stream
-- KEYS[2]  positions of the group: hash of stream to the id of the last entry up to which it had settled all
-- ARGV[1]  group
-- ARGV[2]  name of the stream
-- ARGV[3]  id after which a new group begins; '+': after the last entry
-- returns  {made, after, known}
--            made   1 if it was not there
--            after  id of the entry after which it begins
--            known  1 if that is where it stood

local group, name = ARGV[1], ARGV[2]

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local function before(a, b)
  local ams, aseq = parts(a)
  local bms, bseq = parts(b)
  return ams < bms or (ams == bms and aseq < bseq)
end

for _, found in ipairs(redis.pcall('XINFO', 'GROUPS', KEYS[1])) do
  for i = 1, #found, 2 do
    if found[i] == 'name' and found[i + 1] == group then return {0, '', 0} end
  end
end
local last, stream = '0-0', redis.pcall('XINFO', 'STREAM', KEYS[1])
for i = 1, #stream, 2 do
  if stream[i] == 'last-generated-id' then last = stream[i + 1] end
end

local after, known = ARGV[3], redis.call('HGET', KEYS[2], name)
if known and before(last, known) then -- the stream has been deleted and has begun anew
  after, known = '0-0', false
elseif known then
  after = known
end
if after == '+' or before(last, after) then after = last end
redis.call('XGROUP', 'CREATE', KEYS[1], group, after, 'MKSTREAM')
redis.call('HSET', KEYS[2], name, after)
return {1, after, known and 1 or 0}
