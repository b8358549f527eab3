-- Take a delivery from the list of those that were given up, and publish its notification anew; once.
--
-- KEYS[1]  list of failed deliveries, each as JSON
-- KEYS[2]  stream
-- ARGV[1]  the delivery, exactly as it lies in the list
-- ARGV[2]  ... fields of the event
-- returns  1; 0 if it is not in the list any more

if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2))
return 1
