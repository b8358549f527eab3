-- Hands a message to the process that has a connection.
-- KEYS: the connections of that process, the stream of what it is to pass on
-- ARGV: the connection, the message, how many messages at most wait (about), and how long in ms
-- Returns 1, or 0 where there is no such connection.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    return 0
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'connection', ARGV[1], 'data', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
