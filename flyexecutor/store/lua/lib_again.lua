-- How a call that was claimed comes back into a queue, or ends if it may not.
-- Needs: lib_places

-- RUNNING -> QUEUED, at the end of the queue; or KILLED, if somebody asked for that. Its attempt is spent (the next claim has
-- a higher number).
local function queue_again(queue, call)
  drop(queue, call)
  if call.state ~= 'RUNNING' then return end
  if call.kill then
    settle(call, {state = 'KILLED', attempt = whole(call.attempt, MOST_ATTEMPTS, 0), machine = call.machine,
      region = call.region, outcome = 'killed before it ran again'})
    return
  end
  redis.call('HSET', PREFIX .. ':call:' .. call.id, 'state', 'QUEUED')
  put_into(queue, call.id)
end

-- The same, at no cost in retries, for all that this machine has claimed and does not hold (`held`: ids).
local function hand_back_all(queue, machine, held)
  for _, id in ipairs(claimed_by(queue, machine)) do
    if not held[id] then queue_again(queue, read_call(id)) end
  end
end

-- Out of memory: RUNNING -> QUEUED in the lane of the next larger machine, or LOST when there is none.
-- lost: how it ends then.
local function outgrow(queue, call, lost)
  local lane, larger_ones = string.match(call.bigger or '', '^(%S+) ?(.*)$')
  if not lane then
    lost.outcome = 'oom: ' .. lost.outcome
    return settle(call, lost)
  end
  drop(queue, call)
  redis.call('HSET', PREFIX .. ':call:' .. call.id, 'state', 'QUEUED', 'lane', lane, 'bigger', larger_ones)
  put_into(PREFIX .. ':queue:' .. lane, call.id)
  tell_report(call.watch, ttl_of(call), {id = call.id, attempt = lost.attempt, kind = 'moved', body = lane})
end
