-- reserve: what enqueue does at its end, for a fleet that looks again.
-- KEYS: 1 queue  2 workers  3 starts   ARGV: 1 reservation name  2 max_workers  3 concurrency  4 boot time-out (ms)
-- Answers {reservations, workers (flat: machine joined ...), machines and reservations on their way}.
need_queue(KEYS[1])
local at = now_ms()
local granted = reserve(KEYS[1], KEYS[2], KEYS[3], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), at)
return {granted, redis.call('HGETALL', KEYS[2]), redis.call('ZRANGE', KEYS[3], 0, -1)}
