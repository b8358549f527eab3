-- Takes, renews or ends a lease.
--
-- KEYS[1]  the lock: string, the name of its holder
-- ARGV[1]  name of whoever asks
-- ARGV[2]  how long it holds, in ms; 0 ends it
-- returns  1 if whoever asks holds it now, else 0

local holder, lifetime = redis.call('GET', KEYS[1]), tonumber(ARGV[2])
if lifetime == 0 then
  if holder == ARGV[1] then redis.call('DEL', KEYS[1]) end
  return 0
end
-- What would live longer than a lease can is left from before the server's clock went back.
if holder and holder ~= ARGV[1] and redis.call('PTTL', KEYS[1]) <= lifetime then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', lifetime)
return 1
