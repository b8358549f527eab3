-- Settle a batch of units of work in one step: the atomic commit.
--
-- A unit is what one handler call took and brought about: its entries, the events it publishes and the
-- state it changes. A unit any of whose entries is no longer ours is refused whole, so the commit of a
-- zombie changes nothing. A unit one of whose guards no longer holds is stale: what its handler read has
-- changed since; nothing of it happens, and the handler runs again. Lua does not roll back: everything
-- that can be checked is checked before the first write, and the first write is one that Redis refuses
-- when it takes none (out of memory, a replica); after it, Redis lets the script finish.
--
-- KEYS     every key of the batch; the first is a stream
-- ARGV[1]  group
-- ARGV[2]  consumer
-- ARGV[3]  key of the dead letter stream, or '' to drop the dead
-- ARGV[4]  MessagePack, one flat list:
--            count, {key, key of the group's delayed set, whether entries are deleted once settled} for each stream
--            and for each unit, one behind the other
--              count, {stream index, entry id, disposition, delay in ms, count, fields to add} for each entry
--                disposition 0: done; 1: retry after the delay; 2: dead
--              count, {key of a hash, field, value it must hold, or false: it must not be there} for each guard
--              count, {key, delay in ms, count, fields} for each output; a delay goes with the key of a sorted set
--              count, {count, command, key, arguments} for each state operation: a command of Redis, or
--                HSETOWN key field owner value ms: set a field to `owner value` unless it is another owner's, for so long
-- returns  {refused, invalid, gone, failed, stale}
--            refused   {unit index, entry index, ...}   entries that are no longer ours (indexes from 0)
--            invalid   {unit index, why, ...}           units whose effects cannot be carried out
--            gone      {unit index, entry index, ...}   entries that were to be parked or buried and are no longer in their
--                      stream: nothing of their units has happened
--            failed    {why, ...}                       operations that Redis refused after the checks
--            stale     {unit index, ...}                units with a guard that does not hold
-- error    whatever Redis answers when it takes no writes, or this user may not write: nothing has happened

local group, consumer, dead_letters = ARGV[1], ARGV[2], ARGV[3]
local flat = cmsgpack.unpack(ARGV[4])
local RETRY, DEAD = 1, 2
local MOST_VALUES = 6000 -- Lua's unpack fails near 8,000
local MANY = 8 -- from so many on, one look at the pending entries is cheaper than one for each

local KINDS = {
  HSET = 'hash', HSETNX = 'hash', HINCRBY = 'hash', HINCRBYFLOAT = 'hash', HDEL = 'hash',
  HSETOWN = 'hash',
  ZADD = 'zset', ZINCRBY = 'zset', ZREM = 'zset', ZREMRANGEBYSCORE = 'zset', ZREMRANGEBYRANK = 'zset',
  SADD = 'set', SREM = 'set',
  LPUSH = 'list', RPUSH = 'list', LTRIM = 'list',
  INCRBY = 'string', SET = 'any', DEL = 'any', EXPIRE = 'any', PEXPIRE = 'any',
}

-- Reading the flat list. Each takes where its part begins and returns where the next one does.

local streams = {}
local first = 2
for index = 0, flat[1] - 1 do
  streams[index] = {key = flat[first], delayed = flat[first + 1], drops = flat[first + 2]}
  first = first + 3
end

local function each_entry(at, visit)
  for index = 1, flat[at] do
    local count = flat[at + 5]
    visit(streams[flat[at + 1]], flat[at + 2], flat[at + 3], flat[at + 4], at + 6, at + 5 + count, index - 1)
    at = at + 5 + count
  end
  return at + 1
end

local function each_guard(at, visit)
  for _ = 1, flat[at] do
    visit(flat[at + 1], flat[at + 2], flat[at + 3])
    at = at + 3
  end
  return at + 1
end

local function each_output(at, visit)
  for _ = 1, flat[at] do
    local count = flat[at + 3]
    visit(flat[at + 1], flat[at + 2], at + 4, at + 3 + count)
    at = at + 3 + count
  end
  return at + 1
end

local function each_operation(at, visit)
  for _ = 1, flat[at] do
    local count = flat[at + 1]
    visit(flat[at + 2], flat[at + 3], at + 2, at + 1 + count)
    at = at + 1 + count
  end
  return at + 1
end

local function nothing() end

-- Whose entries are these?

local units, wanted = {}, {} -- where each unit's parts begin; the entry ids of each stream
for index = 0, #streams do wanted[streams[index]] = {} end
do
  local at = first
  while at <= #flat do
    local unit = {entries = at}
    unit.guards = each_entry(at, function(stream, id)
      local ids = wanted[stream]
      ids[#ids + 1] = id
    end)
    unit.outputs = each_guard(unit.guards, nothing)
    unit.operations = each_output(unit.outputs, nothing)
    at = each_operation(unit.operations, nothing)
    units[#units + 1] = unit
  end
end

-- An answer, or nothing where the stream or group is gone or the key holds something else; any other error is
-- not about these entries, and nothing has happened yet.
local function pending_of_mine(stream, from, to, count)
  local rows = redis.pcall('XPENDING', stream.key, group, from, to, count, consumer)
  if not rows.err then return rows end
  if string.find(rows.err, '^NOGROUP') or string.find(rows.err, '^WRONGTYPE') then return {} end
  error(rows)
end

local function before(a, b)
  local ams, aseq = string.match(a, '^(%d+)%-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)%-(%d+)$')
  if ams == bms then return tonumber(aseq) < tonumber(bseq) end
  return tonumber(ams) < tonumber(bms)
end

local mine = {}
for index = 0, #streams do
  local stream = streams[index]
  local ids, owned = wanted[stream], {}
  if #ids >= MANY then
    local low, high = ids[1], ids[1]
    for _, id in ipairs(ids) do
      if before(id, low) then low = id end
      if before(high, id) then high = id end
    end
    for _, row in ipairs(pending_of_mine(stream, low, high, #ids * 4)) do owned[row[1]] = true end
  end
  for _, id in ipairs(ids) do -- those beyond the count above, and those that are few
    if not owned[id] then owned[id] = #pending_of_mine(stream, id, id, 1) > 0 end
  end
  mine[stream] = owned
end

-- What can be carried out?

-- The type each key has, as the units accepted so far leave it, and on top of that the one in question.
local accepted, types = {}, {}
local function holds(key, kind)
  local now = types[key] or accepted[key] or redis.call('TYPE', key).ok
  if now == 'none' then now = kind end
  types[key] = now
  return now == kind
end

-- Say whether an operation that counts will meet what is no integer, as far as can be known beforehand.
local replaced = {}
local function uncountable(command, key, from, to)
  local value
  if command == 'HINCRBY' then value = redis.pcall('HGET', key, flat[from + 2])
  elseif command == 'INCRBY' then value = redis.pcall('GET', key)
  else return false end
  if not string.match(flat[to], '^%-?%d+$') then return true end
  return not replaced[key] and type(value) == 'string' and not string.match(value, '^%-?%d+$')
end

-- The keys that units settled earlier in this batch will have changed.
local touched = {}

local function is_stale(unit)
  local stale = false
  each_guard(unit.guards, function(key, field, value)
    local now = redis.pcall('HGET', key, field)
    stale = stale or touched[key] or (type(now) ~= 'table' and now ~= value) -- an error: see refusal
  end)
  return stale
end

local function refusal(unit)
  types = {}
  local why
  each_entry(unit.entries, function(stream, _, disposition)
    if disposition == RETRY and not holds(stream.delayed, 'zset') then
      why = why or stream.delayed .. ' holds a ' .. types[stream.delayed] .. ', not a zset'
    end
  end)
  each_guard(unit.guards, function(key)
    if not holds(key, 'hash') then why = why or key .. ' holds a ' .. types[key] .. ', not a hash to guard' end
  end)
  each_output(unit.outputs, function(key, delay, from, to)
    local kind = delay > 0 and 'zset' or 'stream'
    if not holds(key, kind) then why = why or key .. ' holds a ' .. types[key] .. ', not a ' .. kind end
    if to - from >= MOST_VALUES then why = why or 'an event of more than ' .. MOST_VALUES / 2 .. ' fields' end
  end)
  each_operation(unit.operations, function(command, key, from, to)
    local kind = KINDS[command]
    if not kind then
      why = why or 'no state operation is called ' .. tostring(command)
    elseif to - from >= MOST_VALUES then
      why = why or command .. ' with more than ' .. MOST_VALUES .. ' arguments'
    elseif command == 'SET' or command == 'DEL' then
      types[key] = command == 'SET' and 'string' or 'none'
      replaced[key] = true
    elseif kind ~= 'any' and not holds(key, kind) then
      why = why or command .. ' on ' .. key .. ', which holds a ' .. types[key]
    elseif uncountable(command, key, from, to) then
      why = why or table.concat(flat, ' ', from, to) .. ': not an integer'
    end
  end)
  if not why then
    for key, kind in pairs(types) do accepted[key] = kind end
  end
  return why
end

local refused, invalid, failed, gone, stale, settled = {}, {}, {}, {}, {}, {}
local commands, buries = {XACK = true}, false -- what this batch needs
for index, unit in ipairs(units) do
  local before_it = #refused + #gone
  each_entry(unit.entries, function(stream, id, disposition, _, _, _, position)
    local list
    if not mine[stream][id] then
      list = refused
    elseif disposition == RETRY or (disposition == DEAD and dead_letters ~= '') then
      if #redis.call('XRANGE', stream.key, id, id) == 0 then list = gone end
    end
    if list then
      list[#list + 1] = index - 1
      list[#list + 1] = position
    end
  end)
  if #refused + #gone == before_it then
    if is_stale(unit) then
      stale[#stale + 1] = index - 1
    else
      local why = refusal(unit)
      if why then
        invalid[#invalid + 1] = index - 1
        invalid[#invalid + 1] = why
      else
        settled[#settled + 1] = unit
        each_operation(unit.operations, function(command, key)
          touched[key] = true
          commands[command == 'HSETOWN' and 'HSET' or command] = true
        end)
        each_entry(unit.entries, function(_, _, disposition)
          if disposition == RETRY then commands.ZADD = true end
          buries = buries or disposition == DEAD
        end)
        each_output(unit.outputs, function(_, delay) commands[delay > 0 and 'ZADD' or 'XADD'] = true end)
      end
    end
  end
end
if buries and dead_letters ~= '' and not holds(dead_letters, 'stream') then
  return redis.error_reply('PENSTOCK ' .. dead_letters .. ' is not a stream')
end
for command in pairs(commands) do -- what stands for values is a key of ours: all arguments of DEL are keys
  if not redis.acl_check_cmd(command, KEYS[1], KEYS[1], KEYS[1], KEYS[1]) then
    return redis.error_reply("NOPERM this user has no permissions to run the '" .. string.lower(command) .. "' command")
  end
end

-- Changes nothing, but fails where Redis takes no writes now: the operations' own errors are caught below.
if next(touched) then
  local reply = redis.pcall('ZADD', KEYS[1], 'XX', 0, '')
  if reply.err and not string.find(reply.err, '^WRONGTYPE') then return reply end
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The entry's own fields, without those that parking it has added: they are the last ones on a retry stream.
local function own_fields(stream, fields)
  local count = #fields
  if stream.drops and fields[count - 7] == 'retry.entry' then count = count - 8 end
  if count > MOST_VALUES then -- too many for one XADD: they travel in one
    local folded = {}
    for i = 1, count do folded[i] = #fields[i] .. ':' .. fields[i] end
    return {'retry.fields', table.concat(folded)}
  end
  for i = #fields, count + 1, -1 do fields[i] = nil end
  return fields
end

local function with_added(stream, fields, from, to)
  local all = own_fields(stream, fields)
  for i = from, to do all[#all + 1] = flat[i] end
  return all
end

local function hsetown(key, field, owner, value, ms)
  local now = redis.pcall('HGET', key, field)
  if type(now) == 'string' and string.match(now, '^%S*') ~= owner then return now end
  local reply = redis.pcall('HSET', key, field, owner .. ' ' .. value)
  redis.pcall('PEXPIRE', key, ms)
  return reply
end

for _, unit in ipairs(settled) do
  each_output(unit.outputs, function(key, delay, from, to)
    if delay > 0 then
      redis.call('ZADD', key, now + delay, cmsgpack.pack({unpack(flat, from, to)}))
    else
      redis.call('XADD', key, '*', unpack(flat, from, to))
    end
  end)
end

local acks = {}
for _, unit in ipairs(settled) do
  each_entry(unit.entries, function(stream, id, disposition, delay, from, to)
    if disposition == RETRY or (disposition == DEAD and dead_letters ~= '') then
      local fields = with_added(stream, redis.call('XRANGE', stream.key, id, id)[1][2], from, to)
      if disposition == RETRY then
        redis.call('ZADD', stream.delayed, now + delay, cmsgpack.pack(fields))
      else
        redis.call('XADD', dead_letters, '*', unpack(fields))
      end
    end
    local ids = acks[stream]
    if not ids then
      ids = {}
      acks[stream] = ids
    end
    ids[#ids + 1] = id
  end)
  each_operation(unit.operations, function(command, key, from, to)
    local reply
    if command == 'HSETOWN' then
      reply = hsetown(unpack(flat, from + 1, to))
    else
      reply = redis.pcall(unpack(flat, from, to))
    end
    if type(reply) == 'table' and reply.err then failed[#failed + 1] = command .. ' ' .. key .. ': ' .. reply.err end
  end)
end
for stream, ids in pairs(acks) do
  for from = 1, #ids, MOST_VALUES do
    local to = math.min(from + MOST_VALUES - 1, #ids)
    redis.call('XACK', stream.key, group, unpack(ids, from, to))
    if stream.drops then redis.call('XDEL', stream.key, unpack(ids, from, to)) end
  end
end
return {refused, invalid, gone, failed, stale}
