-- How a worker gets calls.
-- Needs: lib_settle
local TO_CLAIM = {'state', 'attempt', 'pieces', 'call', 'losses', 'raised', 'parts', 'expires', 'name'}

-- Answers what a worker is told of a call that it now has: its head is "id attempt pieces losses raised parts...".
local function begin(call, queue, worker, at)
  local key, attempt = PREFIX .. ':call:' .. call.id, call.attempt + 1
  redis.call('HSET', key, 'state', 'RUNNING', 'attempt', attempt, 'machine', worker.machine, 'region', worker.region,
    'started', at)
  if call.expires then
    redis.call('HDEL', key, 'expires', 'expired')
    mend('ZREM', PREFIX .. ':due:' .. lane_of(queue), 'x ' .. call.id)
  end
  local head = {call.id, attempt, call.pieces, tonumber(call.losses or 0), tonumber(call.raised or 0), call.parts or ''}
  return {table.concat(head, ' '), call.call, call.name}
end

-- QUEUED -> RUNNING for entries that were delivered to this worker (its machine, region); others of them have been
-- cancelled meanwhile. Answers {head body name} of each.
local function claim_entries(queue, entries, worker)
  local claimed = {}
  local at = now_ms()
  for _, delivered in ipairs(entries) do
    local entry, fields = unpack(delivered)
    local call = names_call(fields) and read_call(fields[2], TO_CLAIM) or {}
    local field = damaged_field(call)
    if field then
      drop_entry(queue, entry)  -- the record may name another
      fail_damaged(read_call(call.id), field, call[field])
    elseif call.state ~= 'QUEUED' then
      drop_entry(queue, entry)
    elseif call.expires and tonumber(call.expires) < at then
      expire(read_call(call.id))
    else
      claimed[#claimed + 1] = begin(call, queue, worker, at)
    end
  end
  return claimed
end

-- Claims up to `limit` calls that wait now; never blocks. Raises if the queue is none: its worker joins again, which
-- mends it.
local function claim_more(queue, limit, worker)
  if limit < 1 then return {} end
  local read = redis.call('XREADGROUP', 'GROUP', GROUP, worker.machine, 'COUNT', limit, 'STREAMS', queue, '>')
  if not read then return {} end
  return claim_entries(queue, read[1][2], worker)
end
