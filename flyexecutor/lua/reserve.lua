-- reserve: what enqueue does at its end, for a fleet that looks again; renews the reservations that it still has to act on.
-- KEYS: 1 queue  2 workers  3 starts
-- ARGV: 1 reservation name  2 max_workers  3 concurrency  4 life of a reservation (ms), then the reservations to renew
-- Answers {reservations, workers (flat: machine joined ...), machines and reservations on their way}.
need_queue(KEYS[1])
local at, hold_ms = now_ms(), tonumber(ARGV[4])
for n = 5, #ARGV do redis.call('ZADD', KEYS[3], 'XX', at + hold_ms, ARGV[n]) end
local granted = reserve(KEYS[1], KEYS[2], KEYS[3], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), hold_ms, at)
return {granted, redis.call('HGETALL', KEYS[2]), redis.call('ZRANGE', KEYS[3], 0, -1)}
