-- Trim a stream to its retention, but never what a group has yet to read or to settle, whoever declared it: on one
-- server may be the groups of another project, or of the release before. Only the hard limit goes before that.
--
-- KEYS[1]  stream
-- ARGV[1]  entries older than this id may go (by age)
-- ARGV[2]  most entries to keep
-- ARGV[3]  most entries to remove in this call
-- ARGV[4]  hard limit: most entries to keep whoever has not read them, or ''
-- ARGV[5]  how many groups are declared
-- ARGV[6]  ... their names, and then those of groups that hold nothing back: they were declared abandoned
-- returns  {removed, 1 if another call may remove more, name of the group that holds trimming back or '',
--           how many of the removed that group had not read or settled}

if redis.call('EXISTS', KEYS[1]) == 0 then return {0, 0, '', 0} end

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

local BYTES = 8000000 -- a call looks at about as many: each entry may be large

-- The first id that must stay for each group; a declared one that does not exist yet has read nothing.
local positions = {}
for i = 6, 5 + ARGV[5] do positions[ARGV[i]] = '0-0' end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local info = {}
  for i = 1, #group, 2 do info[group[i]] = group[i + 1] end
  positions[info['name']] = after(info['last-delivered-id'])
  local oldest = redis.call('XPENDING', KEYS[1], info['name'])[2]
  if oldest then positions[info['name']] = oldest end
end
for i = 6 + ARGV[5], #ARGV do positions[ARGV[i]] = nil end
local keep, holder = '18446744073709551615-0', ''
for group, first in pairs(positions) do
  if before(first, keep) then keep, holder = first, group end
end

-- The first id that may stay if only so many entries are kept, as far as one call goes ('0-0' if all may), and how many
-- of those that go nobody holds back.
local length, most = redis.call('XLEN', KEYS[1]), tonumber(ARGV[3])
local function beyond(kept)
  local excess, looked, seen, settled, page, last = math.min(length - kept, most), 0, 0, 0, 1, nil
  while looked < excess and seen < BYTES do
    for _, row in ipairs(redis.call('XRANGE', KEYS[1], last and '(' .. last or '-', '+', 'COUNT', page)) do
      last = row[1]
      looked = looked + 1
      for _, text in ipairs(row[2]) do seen = seen + #text end
      if before(last, keep) then settled = settled + 1 end
    end
    local fit = math.floor(BYTES * looked / math.max(1, seen))
    page = math.max(1, math.min(2 * page, 100, fit, excess - looked))
  end
  return last and after(last) or '0-0', settled
end

-- What retention alone would remove: by age, or beyond the number to keep.
local wanted, excess = ARGV[1], beyond(tonumber(ARGV[2]))
if before(wanted, excess) then wanted = excess end
local held = before(keep, wanted) and #redis.call('XRANGE', KEYS[1], keep, '(' .. wanted, 'COUNT', 1) > 0
local settled
if held then
  local limit, before_it = '0-0', 0
  if ARGV[4] ~= '' then limit, before_it = beyond(tonumber(ARGV[4])) end
  wanted = keep
  if before(keep, limit) then
    wanted = limit
    settled = before_it
  end
end
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', wanted, 'LIMIT', most)
-- It goes by whole nodes, and stops short of LIMIT where the next one would exceed it.
return {removed, removed > 0 and 1 or 0, held and holder or '', settled and math.max(0, removed - settled) or 0}
