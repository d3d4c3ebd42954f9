-- meter: what a lane has and has cost; changes nothing.
-- KEYS: 1 queue  2 workers  3 starts   ARGV: 1 prefix
-- Answers {queued, running, workers, starts, billed so far (ms), useful (ms), calls that ended, starts so far,
-- bytes sent}.
local lane, at = lane_of(ARGV[1], KEYS[1]), now_ms()
local total, busy = length(KEYS[1]), 0
if total > 0 then busy = running(KEYS[1]) end
local is = mend('HMGET', ARGV[1] .. ':meter:' .. lane, 'billed', 'useful', 'calls', 'starts', 'sent')
local billed = count(is[1])
local awake = mend('HGETALL', ARGV[1] .. ':awake:' .. lane)
for n = 1, #awake, 2 do
  local till = count(mend('ZSCORE', KEYS[3], awake[n]) or at)  -- who started it died, and it never came
  billed = billed + math.max(0, math.min(at, till) - whole(awake[n + 1], LARGEST, at))
end
return {total - busy, busy, mend('HLEN', KEYS[2]), mend('ZCOUNT', KEYS[3], at, '+inf'), billed,
  count(is[2]), count(is[3]), count(is[4]), count(is[5])}
