-- Settle a batch of handled units in one step: the hop commit.
--
-- A unit is what one handler call took and brought about: its entries, the events it publishes and the
-- state it changes. A unit any of whose entries is no longer ours is refused whole, so the commit of a
-- zombie changes nothing. A unit one of whose guards no longer holds is stale: what its handler read has
-- changed since; nothing of it happens, and the handler runs again. Lua does not roll back: everything
-- that can be checked is checked before the first write, and the first write is one that Redis refuses
-- when it takes none (out of memory, a replica); after it, Redis lets the script finish.
--
-- KEYS[1]  a stream of the lane; on a cluster every key of the batch lies in its slot
-- ARGV[1]  group
-- ARGV[2]  consumer
-- ARGV[3]  key of the dead letter stream, or '' to drop the dead
-- ARGV[4]  MessagePack {streams, units}
--            stream    {key, key of the group's delayed set, true if entries are deleted once settled}
--            unit      {entries, outputs, operations, guards}
--            entry     {stream index, entry id, verdict, fields to set, delay in ms}
--                      verdict 0: done; 1: retry after the delay; 2: dead
--            output    {key, fields, delay in ms}   a delay goes with the key of a sorted set
--            operation {command, key, argument ...}
--            guard     {key of a hash, field, value it must hold, or false: it must not be there}
-- returns  {refused, invalid, gone, failed, stale}
--            refused   {unit index, entry index, ...}   entries that are no longer ours (indexes from 0)
--            invalid   {unit index, why, ...}           units whose effects cannot be carried out
--            gone      how many entries were deleted or trimmed before they could be parked or buried
--            failed    {why, ...}                       operations that Redis refused after the checks
--            stale     {unit index, ...}                units with a guard that does not hold

local group, consumer, dead_letters = ARGV[1], ARGV[2], ARGV[3]
local batch = cmsgpack.unpack(ARGV[4])
local streams, units = batch[1], batch[2]
local RETRY, DEAD = 1, 2
local MOST_FIELDS = 6000 -- Lua's unpack fails near 8,000 values

local KINDS = {
  HSET = 'hash', HSETNX = 'hash', HINCRBY = 'hash', HINCRBYFLOAT = 'hash', HDEL = 'hash',
  ZADD = 'zset', ZINCRBY = 'zset', ZREM = 'zset', ZREMRANGEBYSCORE = 'zset', ZREMRANGEBYRANK = 'zset',
  SADD = 'set', SREM = 'set',
  LPUSH = 'list', RPUSH = 'list', LTRIM = 'list',
  INCRBY = 'string', SET = 'any', DEL = 'any', EXPIRE = 'any', PEXPIRE = 'any',
}

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
local function uncountable(operation)
  local command, key, value = operation[1], operation[2], nil
  local by = operation[#operation]
  if command == 'HINCRBY' then value = redis.pcall('HGET', key, operation[3])
  elseif command == 'INCRBY' then value = redis.pcall('GET', key)
  else return false end
  if not string.match(by, '^%-?%d+$') then return true end
  return not replaced[key] and type(value) == 'string' and not string.match(value, '^%-?%d+$')
end

-- The keys that units settled earlier in this batch will have changed.
local touched = {}
local function touch(unit)
  for _, operation in ipairs(unit[3]) do touched[operation[2]] = true end
end

local function is_stale(unit)
  for _, guard in ipairs(unit[4]) do
    if touched[guard[1]] then return true end
    local now = redis.pcall('HGET', guard[1], guard[2])
    if type(now) ~= 'table' and now ~= guard[3] then return true end -- an error: see refusal
  end
end

local function refusal(unit)
  types = {}
  for _, entry in ipairs(unit[1]) do
    local delayed = streams[entry[1] + 1][2]
    if entry[3] == RETRY and not holds(delayed, 'zset') then
      return delayed .. ' holds a ' .. types[delayed] .. ', not a zset'
    end
  end
  for _, guard in ipairs(unit[4]) do
    if not holds(guard[1], 'hash') then return guard[1] .. ' holds a ' .. types[guard[1]] .. ', not a hash to guard' end
  end
  for _, output in ipairs(unit[2]) do
    local kind = output[3] > 0 and 'zset' or 'stream'
    if not holds(output[1], kind) then return output[1] .. ' holds a ' .. types[output[1]] .. ', not a ' .. kind end
    if #output[2] > MOST_FIELDS then return 'an event of more than ' .. MOST_FIELDS / 2 .. ' fields' end
  end
  for _, operation in ipairs(unit[3]) do
    local command, key = operation[1], operation[2]
    local kind = KINDS[command]
    if not kind then return 'no state operation is called ' .. tostring(command) end
    if #operation > MOST_FIELDS then return command .. ' with more than ' .. MOST_FIELDS .. ' arguments' end
    if command == 'SET' or command == 'DEL' then
      types[key] = command == 'SET' and 'string' or 'none'
      replaced[key] = true
    elseif kind ~= 'any' and not holds(key, kind) then
      return command .. ' on ' .. key .. ', which holds a ' .. types[key]
    end
    if uncountable(operation) then return table.concat(operation, ' ') .. ': not an integer' end
  end
  for key, kind in pairs(types) do accepted[key] = kind end
end

local function foreign(unit, index, refused)
  local before = #refused
  for position, entry in ipairs(unit[1]) do
    local pending = redis.pcall('XPENDING', streams[entry[1] + 1][1], group, entry[2], entry[2], 1)
    if not pending[1] or pending[1][2] ~= consumer then
      refused[#refused + 1] = index - 1
      refused[#refused + 1] = position - 1
    end
  end
  return #refused > before
end

-- Copy an entry's fields, with those in `set` put in place of its own.
local function with(fields, set)
  local own = {}
  for i = 1, #set, 2 do own[set[i]] = true end
  local merged = {}
  for i = 1, math.min(#fields, MOST_FIELDS), 2 do
    if not own[fields[i]] then
      merged[#merged + 1] = fields[i]
      merged[#merged + 1] = fields[i + 1]
    end
  end
  for i = 1, #set do merged[#merged + 1] = set[i] end
  return merged
end

local refused, invalid, failed, gone, stale, settled, changes = {}, {}, {}, 0, {}, {}, false
for index, unit in ipairs(units) do
  if not foreign(unit, index, refused) then
    if is_stale(unit) then
      stale[#stale + 1] = index - 1
    else
      local why = refusal(unit)
      if why then
        invalid[#invalid + 1] = index - 1
        invalid[#invalid + 1] = why
      else
        settled[#settled + 1] = unit
        changes = changes or #unit[3] > 0
        touch(unit)
      end
    end
  end
end
if dead_letters ~= '' and not holds(dead_letters, 'stream') then
  return redis.error_reply('PENSTOCK ' .. dead_letters .. ' is not a stream')
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Changes nothing, but raises where Redis takes no writes now: the operations' own errors are caught below.
if changes then redis.call('LPUSHX', KEYS[1] .. ':none', '') end

for _, unit in ipairs(settled) do
  for _, output in ipairs(unit[2]) do
    if output[3] > 0 then
      redis.call('ZADD', output[1], now + output[3], cmsgpack.pack(output[2]))
    else
      redis.call('XADD', output[1], '*', unpack(output[2]))
    end
  end
end

local acks = {}
for _, unit in ipairs(settled) do
  for _, entry in ipairs(unit[1]) do
    local stream = streams[entry[1] + 1]
    local verdict = entry[3]
    if verdict == RETRY or (verdict == DEAD and dead_letters ~= '') then
      local found = redis.call('XRANGE', stream[1], entry[2], entry[2])[1]
      if not found then
        gone = gone + 1
      elseif verdict == RETRY then
        redis.call('ZADD', stream[2], now + entry[5], cmsgpack.pack(with(found[2], entry[4])))
      else
        redis.call('XADD', dead_letters, '*', unpack(with(found[2], entry[4])))
      end
    end
    local ids = acks[stream]
    if not ids then
      ids = {}
      acks[stream] = ids
    end
    ids[#ids + 1] = entry[2]
  end
  for _, operation in ipairs(unit[3]) do
    local reply = redis.pcall(unpack(operation))
    if type(reply) == 'table' and reply.err then failed[#failed + 1] = operation[1] .. ' ' .. operation[2] .. ': ' .. reply.err end
  end
end
for stream, ids in pairs(acks) do
  redis.call('XACK', stream[1], group, unpack(ids))
  if stream[3] then redis.call('XDEL', stream[1], unpack(ids)) end
end
return {refused, invalid, gone, failed, stale}
