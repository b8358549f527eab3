-- One heartbeat: I am alive, and these entries are still in flight here. Who else is?
--
-- Owner first, then claim: XCLAIM alone would steal an entry back from whoever has it now. JUSTID resets
-- the idle time and leaves the delivery count alone.
--
-- KEYS[1]   last beat of each consumer of the group: hash of consumer to 'number:ms'
-- KEYS[2..] streams with entries in flight
-- ARGV[1]   group
-- ARGV[2]   consumer
-- ARGV[3]   number of this beat; 0: this process has given up what it holds
-- ARGV[4]   MessagePack {{entry id ...} ...}, a list for each of KEYS[2..]
-- returns   {lost, beats}
--             lost   {stream index, entry id, ...} of entries that are no longer ours (indexes from 0)
--             beats  {consumer, beat, ...}
-- error     what Redis says of a stream, other than that it or its group is gone

local group, consumer = ARGV[1], ARGV[2]

local function is_mine(stream, id)
  local rows = redis.pcall('XPENDING', stream, group, id, id, 1)
  if not rows.err then return rows[1] ~= nil and rows[1][2] == consumer end
  if string.find(rows.err, '^NOGROUP') or string.find(rows.err, '^WRONGTYPE') then return false end
  error(rows)
end

local function before(a, b)
  local ams, aseq = string.match(a, '^(%d+)%-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)%-(%d+)$')
  if ams == bms then return tonumber(aseq) < tonumber(bseq) end
  return tonumber(ams) < tonumber(bms)
end

-- XCLAIM drops what has been deleted or trimmed from the pending entries, and so from whoever works on it: leave that
-- out. Only what is before the stream's first entry, or not after the last one deleted, has to be looked for.
local function still_there(stream, ids)
  local info, reply = {}, redis.call('XINFO', 'STREAM', stream)
  for i = 1, #reply, 2 do info[reply[i]] = reply[i + 1] end
  local first, deleted = info['recorded-first-entry-id'], info['max-deleted-entry-id']
  local there = {}
  for _, id in ipairs(ids) do
    local is_sure = info['length'] > 0 and first and not before(id, first) and before(deleted, id)
    if is_sure or #redis.call('XRANGE', stream, id, id) > 0 then there[#there + 1] = id end
  end
  return there
end

local lost, mine = {}, {}
for index, ids in ipairs(cmsgpack.unpack(ARGV[4])) do
  mine[index] = {}
  for _, id in ipairs(ids) do
    if is_mine(KEYS[index + 1], id) then
      mine[index][#mine[index] + 1] = id
    else
      lost[#lost + 1] = index - 1
      lost[#lost + 1] = id
    end
  end
end

local time = redis.call('TIME')
local beat = ARGV[3]
if beat ~= '0' then beat = beat .. ':' .. time[1] * 1000 + math.floor(time[2] / 1000) end
redis.call('HSET', KEYS[1], consumer, beat)
for index, held in ipairs(mine) do
  local ids = #held > 0 and still_there(KEYS[index + 1], held) or held
  for from = 1, #ids, 5000 do
    local chunk = {unpack(ids, from, math.min(from + 4999, #ids))}
    chunk[#chunk + 1] = 'JUSTID'
    redis.call('XCLAIM', KEYS[index + 1], group, consumer, 0, unpack(chunk))
  end
end
return {lost, redis.call('HGETALL', KEYS[1])}
