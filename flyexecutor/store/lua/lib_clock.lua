-- The time, and turns: what Fly limits for all clients together.
-- Needs: lib_sound

-- Of the beginning of the script, as all that it writes: in microseconds.
local begun_us

local function now_us()
  if not begun_us then
    local time = redis.call('TIME')
    begun_us = time[1] * 1000000 + time[2]
  end
  return begun_us
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

-- When a token bucket is full (ms). One that would have its asker wait for longer than `most` is not of this clock, which
-- was set back meanwhile, or is nobody's of ours.
local function full_at(key, at, most)
  local full = count(mend('GET', key))
  return full <= at + most and math.max(at, full) or at
end

-- A token bucket: the next free moment for what Fly limits to one request each `every` milliseconds. Answers the
-- milliseconds to wait; the moment is the asker's then.
local function take_turn(key, at, every, burst, most)
  local full = full_at(key, at, most) + every
  redis.call('SET', key, full, 'PX', math.ceil(full - at) + 1000)
  return math.max(0, math.ceil(full - at - every * burst))
end
