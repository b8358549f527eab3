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
-- ARGV[4]  MessagePack, one flat list of sections, each of items behind their lengths and then a 0:
--            {key, key of the group's delayed set, whether entries are deleted once settled} for each stream
--            and for each unit, one behind the other
--              {stream number, entry id, disposition, delay in ms, fields to add} for each entry
--                disposition 0: done; 1: retry after the delay; 2: dead
--              {key of a hash, field, value it must hold, or false: it must not be there} for each guard
--              {key, delay in ms, fields} for each output; a delay goes with the key of a sorted set
--              {command, key, arguments} for each state operation: a command of Redis, or
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

-- Reading the flat list: `for at in next_item, section` takes `at` to the length of each item; what it holds follows.

local function next_item(section, at)
  at = at and at + flat[at] + 1 or section
  if flat[at] > 0 then return at end
end

local function past(section)
  while flat[section] > 0 do section = section + flat[section] + 1 end
  return section + 1
end

local streams, wanted = {}, {} -- wanted: the ids of the entries of each stream
for at in next_item, 1 do
  streams[#streams + 1] = {key = flat[at + 1], delayed = flat[at + 2], drops = flat[at + 3]}
  wanted[#streams] = {}
end

local units = {} -- where each unit's sections begin
do
  local at = past(1)
  while at <= #flat do
    local guards = past(at)
    local outputs = past(guards)
    local operations = past(outputs)
    units[#units + 1] = {entries = at, guards = guards, outputs = outputs, operations = operations}
    for entry in next_item, at do
      local ids = wanted[flat[entry + 1]]
      ids[#ids + 1] = flat[entry + 2]
    end
    at = past(operations)
  end
end

-- Whose entries are these?

-- An answer, or nothing where the stream or group is gone or the key holds something else; any other error is
-- not about these entries, and nothing has happened yet.
local function pending_of_mine(stream, from, to, count)
  local rows = redis.pcall('XPENDING', stream.key, group, from, to, count, consumer)
  if not rows.err then return rows end
  if string.find(rows.err, '^NOGROUP') or string.find(rows.err, '^WRONGTYPE') then return {} end
  error(rows)
end

local mine = {}
for number, stream in ipairs(streams) do
  local ids, owned = wanted[number], {}
  if #ids >= MANY then
    -- As text, ids are in order but for those of one ms: all of the first and of the last ms are asked for.
    local low, high = ids[1], ids[1]
    for _, id in ipairs(ids) do
      if id < low then low = id elseif high < id then high = id end
    end
    low, high = string.match(low, '^%d+'), string.match(high, '^%d+')
    for _, row in ipairs(pending_of_mine(stream, low, high, #ids * 4)) do owned[row[1]] = true end
  end
  for _, id in ipairs(ids) do -- those beyond the count above, and those that are few
    if not owned[id] then owned[id] = #pending_of_mine(stream, id, id, 1) > 0 end
  end
  mine[number] = owned
end

-- What can be carried out?

-- The type each key has, as the units accepted so far leave it, and on top of that the one in question.
local accepted, types = {}, {}

-- Return the type of a key, unless it is `kind` or can become it.
local function other_type(key, kind)
  local now = types[key] or accepted[key]
  if now == kind then return nil end
  now = now or redis.call('TYPE', key).ok
  if now == 'none' then now = kind end
  types[key] = now
  if now ~= kind then return now end
end

-- Say whether an operation that counts will meet what is no integer, as far as can be known beforehand.
local replaced = {}
local function uncountable(command, key, field, by)
  local value
  if command == 'HINCRBY' then value = redis.pcall('HGET', key, field)
  elseif command == 'INCRBY' then value = redis.pcall('GET', key)
  else return false end
  if not string.match(by, '^%-?%d+$') then return true end
  return not replaced[key] and type(value) == 'string' and not string.match(value, '^%-?%d+$')
end

-- The keys that units settled earlier in this batch will have changed.
local touched = {}

local function is_stale(unit)
  for at in next_item, unit.guards do
    local key, field, value = flat[at + 1], flat[at + 2], flat[at + 3]
    local now = redis.pcall('HGET', key, field)
    if touched[key] or (type(now) ~= 'table' and now ~= value) then return true end -- an error: see refusal
  end
  return false
end

local function refusal_of_operation(at)
  local command, key, last = flat[at + 1], flat[at + 2], at + flat[at]
  local kind = KINDS[command]
  if not kind then return 'no state operation is called ' .. tostring(command) end
  if flat[at] > MOST_VALUES then return command .. ' with more than ' .. MOST_VALUES .. ' arguments' end
  if command == 'SET' or command == 'DEL' then
    types[key] = command == 'SET' and 'string' or 'none'
    replaced[key] = true
    return nil
  end
  local other = kind ~= 'any' and other_type(key, kind)
  if other then return command .. ' on ' .. key .. ', which holds a ' .. other end
  if uncountable(command, key, flat[at + 3], flat[last]) then
    return table.concat(flat, ' ', at + 1, last) .. ': not an integer'
  end
end

local function refusal(unit)
  for at in next_item, unit.entries do
    if flat[at + 3] == RETRY then
      local delayed = streams[flat[at + 1]].delayed
      local other = other_type(delayed, 'zset')
      if other then return delayed .. ' holds a ' .. other .. ', not a zset' end
    end
  end
  for at in next_item, unit.guards do
    local other = other_type(flat[at + 1], 'hash')
    if other then return flat[at + 1] .. ' holds a ' .. other .. ', not a hash to guard' end
  end
  for at in next_item, unit.outputs do
    local kind = flat[at + 2] > 0 and 'zset' or 'stream'
    local other = other_type(flat[at + 1], kind)
    if other then return flat[at + 1] .. ' holds a ' .. other .. ', not a ' .. kind end
    if flat[at] - 2 > MOST_VALUES then return 'an event of more than ' .. MOST_VALUES / 2 .. ' fields' end
  end
  for at in next_item, unit.operations do
    local why = refusal_of_operation(at)
    if why then return why end
  end
end

local refused, invalid, failed, gone, stale, settled = {}, {}, {}, {}, {}, {}
local commands, buries = {XACK = true}, false -- what this batch needs

-- Note which entries of a unit cannot be settled; return whether all can.
local function is_in_hand(unit, index)
  local all, position = true, 0
  for at in next_item, unit.entries do
    local number, id, disposition = flat[at + 1], flat[at + 2], flat[at + 3]
    local list
    if not mine[number][id] then
      list = refused
    elseif disposition == RETRY or (disposition == DEAD and dead_letters ~= '') then
      if #redis.call('XRANGE', streams[number].key, id, id) == 0 then list = gone end
    end
    if list then
      all = false
      list[#list + 1] = index
      list[#list + 1] = position
    end
    position = position + 1
  end
  return all
end

local function accept(unit)
  settled[#settled + 1] = unit
  for key, kind in pairs(types) do accepted[key] = kind end
  for at in next_item, unit.entries do
    if flat[at + 3] == RETRY then commands.ZADD = true end
    if flat[at + 3] == DEAD then buries = true end
  end
  for at in next_item, unit.outputs do commands[flat[at + 2] > 0 and 'ZADD' or 'XADD'] = true end
  for at in next_item, unit.operations do
    touched[flat[at + 2]] = true
    commands[flat[at + 1] == 'HSETOWN' and 'HSET' or flat[at + 1]] = true
  end
end

for number, unit in ipairs(units) do
  local index = number - 1
  if is_in_hand(unit, index) then
    if is_stale(unit) then
      stale[#stale + 1] = index
    else
      local why = refusal(unit)
      if why then
        invalid[#invalid + 1] = index
        invalid[#invalid + 1] = why
      else
        accept(unit)
      end
      if next(types) then types = {} end
    end
  end
end
if buries and dead_letters ~= '' and other_type(dead_letters, 'stream') then
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
  for at in next_item, unit.outputs do
    local key, delay, last = flat[at + 1], flat[at + 2], at + flat[at]
    if delay > 0 then
      redis.call('ZADD', key, now + delay, cmsgpack.pack({unpack(flat, at + 3, last)}))
    else
      redis.call('XADD', key, '*', unpack(flat, at + 3, last))
    end
  end
end

local acks = {}
for number in ipairs(streams) do acks[number] = {} end
for _, unit in ipairs(settled) do
  for at in next_item, unit.entries do
    local number, id, disposition = flat[at + 1], flat[at + 2], flat[at + 3]
    if disposition == RETRY or (disposition == DEAD and dead_letters ~= '') then
      local stream = streams[number]
      local fields = with_added(stream, redis.call('XRANGE', stream.key, id, id)[1][2], at + 5, at + flat[at])
      if disposition == RETRY then
        redis.call('ZADD', stream.delayed, now + flat[at + 4], cmsgpack.pack(fields))
      else
        redis.call('XADD', dead_letters, '*', unpack(fields))
      end
    end
    local ids = acks[number]
    ids[#ids + 1] = id
  end
  for at in next_item, unit.operations do
    local command, last = flat[at + 1], at + flat[at]
    local reply
    if command == 'HSETOWN' then
      reply = hsetown(unpack(flat, at + 2, last))
    else
      reply = redis.pcall(unpack(flat, at + 1, last))
    end
    if type(reply) == 'table' and reply.err then
      failed[#failed + 1] = command .. ' ' .. flat[at + 2] .. ': ' .. reply.err
    end
  end
end
for number, ids in ipairs(acks) do
  local stream = streams[number]
  for from = 1, #ids, MOST_VALUES do
    local to = math.min(from + MOST_VALUES - 1, #ids)
    redis.call('XACK', stream.key, group, unpack(ids, from, to))
    if stream.drops then redis.call('XDEL', stream.key, unpack(ids, from, to)) end
  end
end
return {refused, invalid, gone, failed, stale}
