-- How a machine gets calls.
-- Needs: lib_settle
local TO_CLAIM = {'state', 'attempt', 'pieces', 'call', 'losses', 'raised', 'parts', 'expires', 'name'}

-- What a worker is told of a call: its head is "id attempt pieces losses raised parts...".
local function as_told(call, attempt)
  local head = {call.id, attempt, call.pieces, tonumber(call.losses or 0), tonumber(call.raised or 0), call.parts or ''}
  return {table.concat(head, ' '), call.call, call.name or ''}
end

local function begin(call, queue, worker, at)
  local key, attempt = PREFIX .. ':call:' .. call.id, call.attempt + 1
  redis.call('HSET', key, 'state', 'RUNNING', 'attempt', attempt, 'machine', worker.machine, 'region', worker.region,
    'started', at)
  if call.expires then
    redis.call('HDEL', key, 'expires', 'expired')
    mend('ZREM', PREFIX .. ':due:' .. lane_of(queue), 'x ' .. call.id)
  end
  return as_told(call, attempt)
end

-- QUEUED -> RUNNING for up to `limit` calls that have waited longest, on this machine (and its region). Answers what the
-- worker is told of each.
local function claim_queued(queue, limit, worker)
  local claimed, mine, at = {}, {}, now_ms()
  while #claimed < limit do
    local first = mend('ZPOPMIN', queue, limit - #claimed)
    if #first == 0 then break end
    for n = 1, #first, 2 do
      local call = is_id(first[n]) and read_call(first[n], TO_CLAIM) or {}
      local field = damaged_field(call)
      if field then
        fail_damaged(read_call(call.id), field, call[field])
      elseif call.state == 'QUEUED' then
        if call.expires and tonumber(call.expires) < at then
          expire(read_call(call.id))
        else
          claimed[#claimed + 1] = begin(call, queue, worker, at)
          mine[#mine + 1], mine[#mine + 2] = call.id, worker.machine
        end
      end
    end
  end
  if #mine > 0 then note_claims(queue, mine) end
  return claimed
end
