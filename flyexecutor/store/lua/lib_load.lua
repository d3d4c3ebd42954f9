-- How many calls a lane has had at a time, of late: what the worker that has nothing to do needs to know.
-- Needs: lib_sound lib_keys lib_queue
local LOAD = {'at', 'peak', 'before', 'window', 'noted'}
local NOTE_EVERY = 60000  -- ms

local function read_load(lane)
  return by_name(LOAD, mend('HMGET', PREFIX .. ':load:' .. lane, unpack(LOAD)))
end

-- A lane is used: what is kept of it lives on. Now and then, since it takes as many commands as a call.
local function renew(queue, at)
  local lane, lanes = lane_of(queue), PREFIX .. ':lanes'
  mend('ZADD', lanes, at, lane)
  redis.call('ZREMRANGEBYSCORE', lanes, '-inf', at - 30 * DAY * 1000)
  redis.call('EXPIRE', lanes, 30 * DAY)
  redis.call('EXPIRE', PREFIX .. ':meter:' .. lane, 30 * DAY)
  redis.call('EXPIRE', claims_of(queue), UNFINISHED_TTL)
  redis.call('EXPIRE', PREFIX .. ':places:' .. lane, UNFINISHED_TTL)
end

-- window: as it was noted before, if there is none; then nothing is noted of a lane that is not known. Answers the load.
local function note_load(queue, calls, window, at)
  local lane = lane_of(queue)
  local key, load = PREFIX .. ':load:' .. lane, read_load(lane)
  window = window or count(load.window)
  if window == 0 then return load end
  local age, peak, told = at - count(load.at), count(load.peak), at - count(load.noted)
  local begins = age < 0 or age >= window
  if begins then
    load.before = (age < 0 or age >= 2 * window) and 0 or peak
    load.at, load.peak, load.window = at, calls, window
  elseif calls > peak then
    load.peak = calls
  end
  local noted = told < 0 or told >= NOTE_EVERY
  if noted then
    load.noted = at
    renew(queue, at)
  end
  if begins or noted or calls > peak then
    redis.call('HSET', key, 'at', load.at, 'peak', load.peak, 'before', load.before, 'window', load.window,
      'noted', load.noted)
    if begins or noted then redis.call('EXPIRE', key, DAY) end
  end
  return load
end

-- Whether fewer workers would have been enough of late. calls: that there are now.
local function spare(queue, concurrency, at, calls, load)
  local age, window = at - count(load.at), count(load.window)
  if age < 2 * window then calls = math.max(calls, count(load.peak)) end
  if age < window then calls = math.max(calls, count(load.before)) end
  return mend('HLEN', PREFIX .. ':workers:' .. lane_of(queue)) > math.ceil(calls / concurrency)
end
