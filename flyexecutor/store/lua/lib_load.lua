-- How many calls a lane has had at a time, of late: what the worker that has nothing to do needs to know.
-- Needs: lib_sound lib_keys lib_queue
local LOAD = {'at', 'peak', 'before', 'window'}

local function read_load(lane)
  return by_name(LOAD, mend('HMGET', PREFIX .. ':load:' .. lane, unpack(LOAD)))
end

-- window: as it was noted before, if there is none; then nothing is noted of a lane that is not known.
-- Answers whether a window has begun: something to be done now and then may be done then.
local function note_load(lane, calls, window, at)
  local key, load = PREFIX .. ':load:' .. lane, read_load(lane)
  window = window or count(load.window)
  if window == 0 then return false end
  local age, peak = at - count(load.at), count(load.peak)
  if age >= 0 and age < window then
    if calls > peak then redis.call('HSET', key, 'peak', calls) end
    return false
  end
  local before = (age < 0 or age >= 2 * window) and 0 or peak
  redis.call('HSET', key, 'at', at, 'peak', calls, 'before', before, 'window', window)
  redis.call('EXPIRE', key, DAY)
  return true
end

-- Whether fewer workers would have been enough of late.
local function spare(queue, concurrency, at)
  local lane = lane_of(queue)
  local load = read_load(lane)
  local calls, age, window = length(queue), at - count(load.at), count(load.window)
  if age < 2 * window then calls = math.max(calls, count(load.peak)) end
  if age < window then calls = math.max(calls, count(load.before)) end
  return mend('HLEN', PREFIX .. ':workers:' .. lane) > math.ceil(calls / concurrency)
end
