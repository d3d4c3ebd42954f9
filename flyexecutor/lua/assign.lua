-- assign: a reservation becomes a machine, before that is started: two clients must not count on the same one.
-- KEYS: 1 workers  2 starts   ARGV: 1 reservation  2 machine  3 boot time-out (ms)
-- Answers 1, or 0 if the machine is taken (on its way, or at work).
if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 1 or redis.call('ZSCORE', KEYS[2], ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[2], now_ms() + ARGV[3], ARGV[2])
return 1
