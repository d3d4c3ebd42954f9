-- reserve: what enqueue does at its end, for a fleet that looks again; renews the reservations that it still has to act
-- on, and does what is due.
-- KEYS: 1 queue  2 workers  3 starts
-- ARGV: 1 prefix  2 reservation name  3 max_workers  4 concurrency  5 life of a reservation (ms), then the reservations
--       to renew
-- Answers {reservations, workers (flat: machine joined ...), machines and reservations on their way, ms until something
-- is due, the moment (ms)}.
-- What is no machine can't be buried, and would be counted on for ever.
local function drop_odd_workers(workers)
  local told = mend('HGETALL', workers)
  for n = 1, #told, 2 do
    if not string.find(told[n], '^[%w._-]+$') or not whole(told[n + 1], LARGEST) then
      redis.call('HDEL', workers, told[n])
    end
  end
end

need_queue(KEYS[1])
local due = tend_due(ARGV[1], KEYS[1])
drop_odd_workers(KEYS[2])
take_from_the_buried(ARGV[1], KEYS[1], KEYS[2])
local at, hold_ms = now_ms(), tonumber(ARGV[5])
for n = 6, #ARGV do mend('ZADD', KEYS[3], 'XX', at + hold_ms, ARGV[n]) end
local granted = reserve(ARGV[1], lane_of(ARGV[1], KEYS[1]), KEYS[1], KEYS[2], KEYS[3], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), hold_ms, at)
return {granted, redis.call('HGETALL', KEYS[2]), redis.call('ZRANGE', KEYS[3], 0, -1), due, at}
