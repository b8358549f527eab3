-- Commit a batch: for each entry that is still the caller's, one output and the acknowledgement.
--
-- KEYS: the stream read, the stream written
-- ARGV: group, consumer; then for each entry its id and its data
-- Returns the number of entries committed.
local group, consumer = ARGV[1], ARGV[2]
local committed = 0
for at = 3, #ARGV, 2 do
  local id = ARGV[at]
  local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
  if pending and pending[2] == consumer then
    redis.call('XADD', KEYS[2], '*', 'type', 'job.done', 'cause', id, 'data', ARGV[at + 1])
    redis.call('XACK', KEYS[1], group, id)
    committed = committed + 1
  end
end
return committed
