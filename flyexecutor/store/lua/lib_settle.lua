-- How a call ends.
-- Needs: lib_clock lib_queue lib_tell
local TO_SETTLE = {'state', 'watch', 'ttl', 'keep', 'lane', 'pieces', 'queued', 'started', 'expires', 'parts'}

local function meter_ended(lane, useful, calls)
  local meter = PREFIX .. ':meter:' .. lane
  mend('HINCRBY', meter, 'useful', useful)
  -- It is renewed while the lane is used (lib_load).
  if mend('HINCRBY', meter, 'calls', calls) == calls then redis.call('EXPIRE', meter, 30 * DAY) end
end

local function count_ended(shared, lane, useful)
  if not shared then return meter_ended(lane, useful, 1) end
  shared.useful, shared.calls = shared.useful + useful, shared.calls + 1
end

-- Ends a call: its record keeps the outcome for ttl seconds, or goes at once; what it was given goes in any case.
-- call: as it was read, with TO_SETTLE. ended: its state and attempt, and as needed machine region outcome_pieces outcome
-- logs; it is completed. shared: what the caller does at its end for all calls of one lane together (settle_together).
local function settle(call, ended, shared)
  local key, lane, ttl, at = PREFIX .. ':call:' .. call.id, call.lane or '', ttl_of(call), now_ms()
  local due = PREFIX .. ':due:' .. lane
  if shared then shared.ids[#shared.ids + 1] = call.id else drop(PREFIX .. ':queue:' .. lane, call) end
  if call.expires then mend('ZREM', due, 'x ' .. call.id) end
  drop_pieces(call.pieces)
  keep_pieces(ended.outcome_pieces, ttl)
  if call.parts then release_parts(call.parts) end
  if call.keep == '1' then
    redis.call('HSET', key, 'state', ended.state, 'attempt', ended.attempt, 'machine', ended.machine or '',
      'region', ended.region or '', 'outcome_pieces', ended.outcome_pieces or '-', 'outcome', ended.outcome or '',
      'finished', at, 'logs', ended.logs or '', 'call', '')
    if call.expires then redis.call('HDEL', key, 'expired') end
    redis.call('EXPIRE', key, ttl)
  else
    redis.call('UNLINK', key)
  end
  if call.started then count_ended(shared, lane, math.max(0, at - whole(call.started, LARGEST, at))) end
  ended.id, ended.queued, ended.started, ended.finished = call.id, call.queued, call.started, at
  tell_outcome(call.watch, ttl, call.keep, ended, shared and shared.told)
end

-- Ends calls that were RUNNING in this lane, by `each(shared)`.
local function settle_together(queue, each)
  local shared = {ids = {}, useful = 0, calls = 0, told = {}}
  each(shared)
  for client in pairs(shared.told) do tell_rest(client, shared.told) end
  in_parts('HDEL', claims_of(queue), shared.ids)
  if shared.calls > 0 then meter_ended(lane_of(queue), shared.useful, shared.calls) end
end

-- QUEUED | RUNNING -> FAILED: nobody can tell how the call is to be run. The client knows the words (watcher.py).
local function fail_damaged(call, field, value)
  settle(call, {state = 'FAILED', attempt = 0, outcome = 'damaged: its ' .. field .. ' is ' .. shown(value)})
end

-- QUEUED -> FAILED: no worker began it in time. The outcome for that was sealed when it was submitted.
local function expire(call)
  local outcome = read_call(call.id, {'expired'}).expired
  if not outcome then return fail_damaged(call, 'outcome if it expires', outcome) end
  settle(call, {state = 'FAILED', attempt = 0, outcome = outcome})
end
