-- Trim a stream to its retention, but never what a declared group has yet to read or to settle.
--
-- KEYS[1]  stream
-- ARGV[1]  entries older than this id may go (by age)
-- ARGV[2]  most entries to keep
-- ARGV[3]  most entries to remove in this call
-- ARGV[4]  ... names of the declared groups
-- returns  {removed, 1 if another call may remove more, name of the group that holds trimming back or ''}

if redis.call('EXISTS', KEYS[1]) == 0 then return {0, 0, ''} end

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local function before(a, b)
  local ams, aseq = parts(a)
  local bms, bseq = parts(b)
  return ams < bms or (ams == bms and aseq < bseq)
end
local function after(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return ms .. '-' .. string.format('%d', seq + 1)
end

-- The first id that must stay for each declared group; a group that does not exist yet has read nothing.
local positions = {}
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local info = {}
  for i = 1, #group, 2 do info[group[i]] = group[i + 1] end
  positions[info['name']] = after(info['last-delivered-id'])
  local oldest = redis.call('XPENDING', KEYS[1], info['name'])[2]
  if oldest then positions[info['name']] = oldest end
end
local keep, holder = '18446744073709551615-0', ''
for i = 4, #ARGV do
  local first = positions[ARGV[i]] or '0-0'
  if before(first, keep) then keep, holder = first, ARGV[i] end
end

-- What retention alone would remove: by age, or beyond the number to keep.
local wanted = ARGV[1]
local excess = redis.call('XLEN', KEYS[1]) - tonumber(ARGV[2])
local most = tonumber(ARGV[3])
if excess > 0 then
  local rows = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', math.min(excess, most))
  local last = after(rows[#rows][1])
  if before(wanted, last) then wanted = last end
end
local held = before(keep, wanted) and #redis.call('XRANGE', KEYS[1], keep, '(' .. wanted, 'COUNT', 1) > 0
if held then wanted = keep end
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', wanted, 'LIMIT', most)
-- It goes by whole nodes, and stops short of LIMIT where the next one would exceed it.
return {removed, removed > 0 and 1 or 0, held and holder or ''}
