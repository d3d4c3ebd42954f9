-- standing: which calls have not ended; QUEUED | RUNNING -> QUEUED for a call that no queue has and no worker runs.
-- Needs: lib_places
-- ARGV: 1 prefix, then ids
-- Answers for each 1 if it is QUEUED or RUNNING, else 0: it has ended, or is not there, or what is there is no call.
-- A queue that was damaged or removed has lost its calls: who waits for them would wait for ever.

local function is_somewhere(call, queue, lane)
  if call.state == 'RUNNING' and mend('HEXISTS', PREFIX .. ':workers:' .. lane, call.machine or '') == 1 then
    note_claims(queue, {call.id, call.machine})  -- as it should be: or it was lost with its machine
    return true
  end
  return mend('ZSCORE', queue, call.id) or mend('ZSCORE', PREFIX .. ':due:' .. lane, 'r ' .. call.id)
end

local open = {}
for n = 2, #ARGV do
  local call = read_call(ARGV[n], {'state', 'lane', 'machine'})
  open[n - 1] = (call.state == 'QUEUED' or call.state == 'RUNNING') and 1 or 0
  if open[n - 1] == 1 then
    local lane = call.lane or ''
    local queue = PREFIX .. ':queue:' .. lane
    if not is_somewhere(call, queue, lane) then
      drop(queue, call)
      redis.call('HSET', PREFIX .. ':call:' .. call.id, 'state', 'QUEUED')
      put_into(queue, call.id)
    end
  end
end
return open
