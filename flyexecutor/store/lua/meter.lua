-- meter: what a lane has and has cost; changes nothing.
-- Needs: lib_clock lib_queue
-- KEYS: 1 queue  2 workers  3 starts   ARGV: 1 prefix
-- Answers {queued, running, workers, starts, billed so far (ms), useful (ms), calls that ended, starts so far,
-- bytes sent}.
local queue, workers, starts = unpack(KEYS)
local lane, at = lane_of(queue), now_ms()
local names = {'billed', 'useful', 'calls', 'starts', 'sent'}
local meter = by_name(names, mend('HMGET', PREFIX .. ':meter:' .. lane, unpack(names)))
local billed = count(meter.billed)
local awake = mend('HGETALL', PREFIX .. ':awake:' .. lane)
for n = 1, #awake, 2 do
  local machine, since = awake[n], awake[n + 1]
  local till = count(mend('ZSCORE', starts, machine) or at)  -- who started it died, and it never came
  billed = billed + math.max(0, math.min(at, till) - whole(since, LARGEST, at))
end
return {queued(queue), running(queue), mend('HLEN', workers), mend('ZCOUNT', starts, at, '+inf'), billed,
  count(meter.useful), count(meter.calls), count(meter.starts), count(meter.sent)}
