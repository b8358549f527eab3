-- Keep the result of a step, unless one is kept already: for the consumer that holds the entry, and nobody else.
-- A process that has lost its entry and does not know it yet must not leave a checkpoint behind an event that is done.
--
-- KEYS[1]  checkpoint: hash of step to result
-- KEYS[2]  stream that the entry is pending in
-- ARGV[1]  group
-- ARGV[2]  consumer
-- ARGV[3]  entry id
-- ARGV[4]  name of the step
-- ARGV[5]  result
-- ARGV[6]  how long the checkpoint lives at least, in ms
-- returns  the result that is kept now; nil if the entry is not this consumer's (any more)
-- error    whatever Redis answers when it takes no writes: nothing has happened

local pending = redis.pcall('XPENDING', KEYS[2], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if pending.err then
  if string.find(pending.err, '^NOGROUP') or string.find(pending.err, '^WRONGTYPE') then return nil end
  return pending
end
if #pending == 0 then return nil end
redis.call('HSETNX', KEYS[1], ARGV[4], ARGV[5])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[6]) then redis.call('PEXPIRE', KEYS[1], ARGV[6]) end
return redis.call('HGET', KEYS[1], ARGV[4])
