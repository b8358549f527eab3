-- Count a page of the entries after an id, without sending them.
--
-- KEYS[1]  stream
-- ARGV[1]  id
-- ARGV[2]  most entries to count
-- returns  {entries counted, id of the last of them, or ARGV[1]}

local rows = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
return {#rows, #rows > 0 and rows[#rows][1] or ARGV[1]}
