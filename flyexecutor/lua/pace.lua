-- pace: the next free moment to create a machine, for all clients of the app together: a token bucket.
-- KEYS: 1 creates (string)   ARGV: 1 milliseconds per create  2 burst
-- Answers the milliseconds to wait; the moment is the asker's then.
local at, every, burst = now_ms(), tonumber(ARGV[1]), tonumber(ARGV[2])
local full = math.max(at, tonumber(redis.call('GET', KEYS[1]) or 0)) + every
redis.call('SET', KEYS[1], full, 'PX', math.ceil(full - at) + 1000)
return math.max(0, math.ceil(full - at - every * burst))
