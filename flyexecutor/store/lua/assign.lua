-- assign: a reservation becomes a machine, before that is started: two clients must not count on the same one.
-- KEYS: 1 workers  2 starts   ARGV: 1 prefix  2 lane  3 reservation  4 machine  5 for how long it is counted on (ms)
--       6 it must be reserved still (0, 1)
-- Answers 1, or 0 if the machine is taken (on its way, or at work), or not reserved. It is billed from now on.
if ARGV[6] == '1' and not mend('ZSCORE', KEYS[2], ARGV[3]) then return 0 end
if mend('HEXISTS', KEYS[1], ARGV[4]) == 1 or mend('ZSCORE', KEYS[2], ARGV[4]) then return 0 end
local at = now_ms()
redis.call('ZREM', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[2], at + ARGV[5], ARGV[4])
redis.call('EXPIRE', KEYS[2], DAY)
open_bill(ARGV[1], ARGV[2], ARGV[4], at)
return 1
