-- Put in front of every script: what several of them do. All keys share the hash tag of the app, so that a script may
-- name keys that it has read from others, in Redis Cluster too.
--   PREFIX:call:ID (hash)         state lane entry queued attempt losses retries keep ttl watch chunks call machine
--                                 region started; once it has ended: finished outcome_chunks outcome
--   PREFIX:chunk:ID:call|outcome:N (string)   parts of a payload too large for one request
--   PREFIX:queue:LANE (stream)    one entry {id} for a call that is QUEUED or RUNNING; group "workers", consumer = machine
--   PREFIX:workers:LANE (hash)    machine -> time of its join (ms)
--   PREFIX:starts:LANE (zset)     reservation, or the machine that it became -> time at which it expires (ms)
--   PREFIX:outcomes:CLIENT (stream)   one entry {id state attempt machine region chunks body} for each outcome
local GROUP = 'workers'
local DAY = 86400

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function need_queue(queue)
  if redis.call('EXISTS', queue) == 0 then
    redis.call('XGROUP', 'CREATE', queue, GROUP, '0', 'MKSTREAM')
  end
end

local function running(queue)
  return redis.call('XPENDING', queue, GROUP)[1]
end

-- How many machines shall be had, less those that are there or on their way; reserves the difference.
-- Answers the names of the new reservations.
local function reserve(queue, workers, starts, name, max_workers, concurrency, hold_ms, at)
  redis.call('ZREMRANGEBYSCORE', starts, '-inf', at)
  local wanted = math.min(math.ceil(redis.call('XLEN', queue) / concurrency), max_workers)
  local missing = wanted - redis.call('HLEN', workers) - redis.call('ZCARD', starts)
  local granted = {}
  for n = 1, missing do
    granted[n] = name .. ':' .. n
    redis.call('ZADD', starts, at + hold_ms, granted[n])
  end
  if missing > 0 then redis.call('EXPIRE', starts, DAY) end
  return granted
end

local function publish(prefix, watch, ttl, id, state, attempt, machine, region, chunks, body)
  for client in string.gmatch(watch, '%S+') do
    local stream = prefix .. ':outcomes:' .. client
    redis.call('XADD', stream, '*', 'id', id, 'state', state, 'attempt', attempt, 'machine', machine,
      'region', region, 'chunks', chunks, 'body', body)
    redis.call('EXPIRE', stream, ttl)
  end
end

-- Ends a call: its record keeps the outcome for ttl seconds, or goes at once; what it was given goes in any case.
local function settle(prefix, id, record, state, attempt, machine, region, chunks, body)
  local key = prefix .. ':call:' .. id
  local entry, watch, ttl, keep, lane, call_chunks = unpack(record)
  local queue = prefix .. ':queue:' .. lane
  redis.call('XACK', queue, GROUP, entry)
  redis.call('XDEL', queue, entry)
  for n = 1, tonumber(call_chunks) do redis.call('UNLINK', prefix .. ':chunk:' .. id .. ':call:' .. n) end
  for n = 1, tonumber(chunks) do redis.call('EXPIRE', prefix .. ':chunk:' .. id .. ':outcome:' .. n, ttl) end
  if keep == '1' then
    redis.call('HSET', key, 'state', state, 'attempt', attempt, 'machine', machine, 'region', region,
      'outcome_chunks', chunks, 'outcome', body, 'finished', now_ms())
    redis.call('HDEL', key, 'call')
    redis.call('EXPIRE', key, ttl)
  else
    redis.call('UNLINK', key)
  end
  publish(prefix, watch, ttl, id, state, attempt, machine, region, chunks, body)
end

local function read_record(prefix, id)
  return redis.call('HMGET', prefix .. ':call:' .. id, 'entry', 'watch', 'ttl', 'keep', 'lane', 'chunks')
end

-- RUNNING -> QUEUED, at the end of the queue. Its attempt is spent (the next claim has a higher number).
local function queue_again(prefix, queue, entry, id)
  redis.call('XACK', queue, GROUP, entry)
  redis.call('XDEL', queue, entry)
  local key = prefix .. ':call:' .. id
  if redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'state', 'QUEUED', 'entry', redis.call('XADD', queue, '*', 'id', id))
  end
end

-- The calls that this machine has claimed and not finished: {entry, id} of each.
local function claimed_by(queue, machine)
  local found = {}
  for _, pending in ipairs(redis.call('XPENDING', queue, GROUP, '-', '+', 10000, machine)) do
    local read = redis.call('XRANGE', queue, pending[1], pending[1])
    if #read == 0 then
      redis.call('XACK', queue, GROUP, pending[1])
    else
      found[#found + 1] = {pending[1], read[1][2][2]}
    end
  end
  return found
end

-- A machine died, or came back without its memory: its calls run again, or are LOST when their attempts are spent.
local function lose_calls(prefix, queue, machine, reason)
  local lost = 0
  for _, pending in ipairs(claimed_by(queue, machine)) do
    local entry, id = unpack(pending)
    local key = prefix .. ':call:' .. id
    local state, losses, retries, attempt, region = unpack(
      redis.call('HMGET', key, 'state', 'losses', 'retries', 'attempt', 'region'))
    if state ~= 'RUNNING' or tonumber(losses) < tonumber(retries) then
      if state == 'RUNNING' then redis.call('HINCRBY', key, 'losses', 1) end
      queue_again(prefix, queue, entry, id)
    else
      settle(prefix, id, read_record(prefix, id), 'LOST', attempt, machine, region or '', 0, reason)
    end
    lost = lost + 1
  end
  return lost
end

-- QUEUED -> RUNNING for entries that were delivered to this machine; others of them have been cancelled meanwhile.
local function claim_entries(prefix, queue, entries, machine, region)
  local claimed = {}
  local at = now_ms()
  for _, delivered in ipairs(entries) do
    local entry, id = delivered[1], delivered[2][2]
    local key = prefix .. ':call:' .. id
    local record = redis.call('HMGET', key, 'state', 'attempt', 'chunks', 'call')
    if record[1] == 'QUEUED' then
      local attempt = record[2] + 1
      redis.call('HSET', key, 'state', 'RUNNING', 'attempt', attempt, 'machine', machine, 'region', region,
        'started', at)
      claimed[#claimed + 1] = {id, attempt, record[3], record[4]}
    else
      redis.call('XACK', queue, GROUP, entry)
      redis.call('XDEL', queue, entry)
    end
  end
  return claimed
end

-- Claims up to `limit` calls that wait now; never blocks.
local function claim_more(prefix, queue, limit, machine, region)
  if limit < 1 then return {} end
  local read = redis.call('XREADGROUP', 'GROUP', GROUP, machine, 'COUNT', limit, 'STREAMS', queue, '>')
  if not read then return {} end
  return claim_entries(prefix, queue, read[1][2], machine, region)
end
