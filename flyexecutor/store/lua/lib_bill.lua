-- What a lane costs: since when each of its machines is billed.
-- Needs: lib_sound lib_keys

-- A machine is billed no longer, or for another reason than before.
local function close_bill(lane, machine, at)
  local since = mend('HGET', PREFIX .. ':awake:' .. lane, machine)
  if not since then return end
  redis.call('HDEL', PREFIX .. ':awake:' .. lane, machine)
  mend('HINCRBY', PREFIX .. ':meter:' .. lane, 'billed', math.max(0, at - whole(since, LARGEST, at)))
end

-- A machine is billed from now on.
local function open_bill(lane, machine, at)
  close_bill(lane, machine, at)
  local awake, meter = PREFIX .. ':awake:' .. lane, PREFIX .. ':meter:' .. lane
  redis.call('HSET', awake, machine, at)
  mend('HINCRBY', meter, 'starts', 1)
  redis.call('EXPIRE', awake, UNFINISHED_TTL)
  redis.call('EXPIRE', meter, 30 * DAY)
end
