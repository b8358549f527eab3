-- One heartbeat: I am alive, and these entries are still in my hands.
--
-- Owner first, then claim: XCLAIM alone would steal an entry back from whoever has it now. JUSTID resets
-- the idle time and leaves the delivery count alone.
--
-- KEYS[1]  liveness key
-- KEYS[2]  any key of the lane
-- ARGV[1]  lifetime of the liveness key, in ms
-- ARGV[2]  group
-- ARGV[3]  consumer
-- ARGV[4]  MessagePack {{stream key, {entry id ...}} ...}
-- returns  {stream index, entry id, ...} of entries that are no longer ours (indexes from 0)

redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
local lost = {}
for index, held in ipairs(cmsgpack.unpack(ARGV[4])) do
  local mine = {}
  for _, id in ipairs(held[2]) do
    local pending = redis.pcall('XPENDING', held[1], ARGV[2], id, id, 1)
    if pending[1] and pending[1][2] == ARGV[3] then
      mine[#mine + 1] = id
    else
      lost[#lost + 1] = index - 1
      lost[#lost + 1] = id
    end
  end
  for from = 1, #mine, 5000 do
    local chunk = {unpack(mine, from, math.min(from + 4999, #mine))}
    chunk[#chunk + 1] = 'JUSTID'
    redis.call('XCLAIM', held[1], ARGV[2], ARGV[3], 0, unpack(chunk))
  end
end
return lost
