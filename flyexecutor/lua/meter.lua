-- meter: what a lane has and has cost; changes nothing.
-- KEYS: 1 queue  2 workers  3 starts   ARGV: 1 prefix
-- Answers {queued, running, workers, starts, billed so far (ms), useful (ms), calls that ended, starts so far,
-- bytes sent}.
local lane, at = lane_of(ARGV[1], KEYS[1]), now_ms()
local total, busy = redis.call('XLEN', KEYS[1]), 0
if total > 0 then busy = running(KEYS[1]) end
local is = redis.call('HMGET', ARGV[1] .. ':meter:' .. lane, 'billed', 'useful', 'calls', 'starts', 'sent')
local billed = tonumber(is[1] or 0)
local awake = redis.call('HGETALL', ARGV[1] .. ':awake:' .. lane)
for n = 1, #awake, 2 do
  local till = redis.call('ZSCORE', KEYS[3], awake[n]) or at  -- who started it died, and it never came
  billed = billed + math.max(0, math.min(at, till) - awake[n + 1])
end
return {total - busy, busy, redis.call('HLEN', KEYS[2]), redis.call('ZCOUNT', KEYS[3], at, '+inf'), billed,
  tonumber(is[2] or 0), tonumber(is[3] or 0), tonumber(is[4] or 0), tonumber(is[5] or 0)}
