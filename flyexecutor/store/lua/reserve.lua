-- reserve: what enqueue does at its end, for a fleet that looks again; renews the reservations that it still has to act
-- on. What a worker that hangs has not read, and what a machine has that is no worker: RUNNING -> QUEUED | LOST | KILLED |
-- FAILED. As due: QUEUED -> FAILED.
-- Needs: lib_lose lib_due lib_reserve
-- KEYS: 1 queue  2 workers  3 starts   ARGV: 1 prefix, then:
local arg = {
  reservation = ARGV[2],
  max_workers = tonumber(ARGV[3]),
  concurrency = tonumber(ARGV[4]),
  life = tonumber(ARGV[5]),  -- of a reservation (ms)
}
local FIRST = 6  -- then the reservations to renew, and the machines that it has started
-- Answers {reservations, workers (flat: machine joined ...), machines and reservations on their way, ms until something
-- is due, the moment (ms)}.
local queue, workers, starts = unpack(KEYS)

-- What is no machine can't be buried, and would be counted on for ever.
local function drop_odd_workers()
  local flat = mend('HGETALL', workers)
  for n = 1, #flat, 2 do
    local machine, joined = flat[n], flat[n + 1]
    if not string.find(machine, '^[%w._-]+$') or not whole(joined, LARGEST) then redis.call('HDEL', workers, machine) end
  end
end

local due = tend_due(queue)
drop_odd_workers()
local at = now_ms()
take_from_the_buried(queue, workers)
take_back_unread(queue, workers, at)
for n = FIRST, #ARGV do mend('ZADD', starts, 'XX', 'GT', at + arg.life, ARGV[n]) end
local granted = reserve(arg, at)
return {granted, redis.call('HGETALL', workers), redis.call('ZRANGE', starts, 0, -1), due, at}
