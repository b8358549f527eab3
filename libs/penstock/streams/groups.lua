-- Make a group, unless it is there: where it stood if that is known, else where a new one is to begin.
--
-- KEYS[1]  stream
-- KEYS[2]  positions of the group: hash of stream to the id of the last entry up to which it had settled all
-- ARGV[1]  group
-- ARGV[2]  name of the stream
-- ARGV[3]  id after which a new group begins; '+': after the last entry
-- ARGV[4]  former name of the group, or '': it takes that one's place
-- KEYS[3]  positions of that
-- returns  {made, after, known}
--            made   1 if it was not there; -1: neither is it made, as the former group still has entries in flight
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

local groups = {} -- where each has come
for _, found in ipairs(redis.pcall('XINFO', 'GROUPS', KEYS[1])) do
  local info = {}
  for i = 1, #found, 2 do info[found[i]] = found[i + 1] end
  groups[info['name']] = info['last-delivered-id']
end
if groups[group] then return {0, '', 0} end
local former = groups[ARGV[4]]
if former and redis.call('XPENDING', KEYS[1], ARGV[4])[1] > 0 then return {-1, '', 0} end

local last, stream = '0-0', redis.pcall('XINFO', 'STREAM', KEYS[1])
for i = 1, #stream, 2 do
  if stream[i] == 'last-generated-id' then last = stream[i + 1] end
end

local after, known = ARGV[3], former or redis.call('HGET', KEYS[2], name)
if not known and KEYS[3] then known = redis.call('HGET', KEYS[3], name) end
if known and before(last, known) then -- the stream has been deleted and has begun anew
  after, known = '0-0', false
elseif known then
  after = known
end
if after == '+' or before(last, after) then after = last end
redis.call('XGROUP', 'CREATE', KEYS[1], group, after, 'MKSTREAM')
redis.call('HSET', KEYS[2], name, after)
if former then
  redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[4])
  redis.call('HSET', KEYS[3], name, after)
end
return {1, after, known and 1 or 0}
