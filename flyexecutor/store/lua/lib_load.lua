-- How many calls a lane has had at a time, of late: what the worker that has nothing to do needs to know.
-- Needs: lib_sound lib_keys lib_queue
local LOAD = {'at', 'peak', 'before', 'window'}

local function read_load(lane)
  return by_name(LOAD, mend('HMGET', PREFIX .. ':load:' .. lane, unpack(LOAD)))
end

local function note_load(lane, calls, window, at)
  local key, load = PREFIX .. ':load:' .. lane, read_load(lane)
  local age, peak = at - count(load.at), count(load.peak)
  if age >= 2 * window or age < 0 then
    redis.call('HSET', key, 'at', at, 'peak', calls, 'before', 0, 'window', window)
  elseif age >= window then
    redis.call('HSET', key, 'at', at, 'peak', calls, 'before', peak, 'window', window)
  elseif calls > peak then
    redis.call('HSET', key, 'peak', calls)
  end
  redis.call('EXPIRE', key, DAY)
end

-- Whether fewer workers would have been enough of late. Redis wakes the reader that has waited longest, so a trickle of
-- calls keeps every worker from being idle for long: this tells that one is enough.
local function spare(queue, concurrency, at)
  local lane = lane_of(queue)
  local load = read_load(lane)
  local calls, age, window = length(queue), at - count(load.at), count(load.window)
  if age < 2 * window then calls = math.max(calls, count(load.peak)) end
  if age < window then calls = math.max(calls, count(load.before)) end
  return mend('HLEN', PREFIX .. ':workers:' .. lane) > math.ceil(calls / concurrency)
end
