-- How many machines a lane shall have, less those that are there or on their way: the difference is reserved.
-- Needs: lib_bill lib_resting

-- Of a script whose KEYS are 1 queue 2 workers 3 starts, and that is told (`arg`) the name of the reservation, max_workers,
-- concurrency, how long a reservation lives (ms), and whether who asks starts machines that rest (wakes). Answers the names
-- of the new reservations; MACHINE PROOF ... of such machines, which need none; and when both expire (ms).
local function reserve(arg, at)
  local queue, workers, starts = unpack(KEYS)
  local over = mend('ZRANGEBYSCORE', starts, '-inf', at, 'WITHSCORES')
  for n = 1, #over, 2 do
    local name, expired_at = over[n], over[n + 1]
    redis.call('ZREM', starts, name)
    if mend('HEXISTS', workers, name) == 0 then close_bill(lane_of(queue), name, count(expired_at)) end
  end
  redis.call('ZREMRANGEBYSCORE', starts, at + DAY * 1000, '+inf')  -- nobody boots for so long
  local wanted = math.min(math.ceil(length(queue) / arg.concurrency), arg.max_workers)
  local missing = wanted - mend('HLEN', workers) - redis.call('ZCARD', starts)
  local granted, woken, expires = {}, {}, at + arg.life
  for _ = 1, missing do
    local machine, proof
    if arg.wakes then machine, proof = take_resting(queue, workers, starts, at) end
    if machine then
      woken[#woken + 1], woken[#woken + 2] = machine, proof
      open_bill(lane_of(queue), machine, at)
    else
      granted[#granted + 1] = arg.reservation .. ':' .. #granted + 1
    end
    redis.call('ZADD', starts, expires, machine or granted[#granted])
  end
  if missing > 0 then redis.call('EXPIRE', starts, DAY) end
  return granted, woken, expires
end
