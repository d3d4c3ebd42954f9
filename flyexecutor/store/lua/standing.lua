-- standing: which calls have not ended; QUEUED | RUNNING -> QUEUED for a call that no queue has and no worker runs.
-- Needs: lib_call lib_queue
-- ARGV: 1 prefix, then ids
-- Answers for each 1 if it is QUEUED or RUNNING, else 0: it has ended, or is not there, or what is there is no call.
-- A queue that was damaged or removed has lost its entries: who waits for these calls would wait for ever.

-- Whether a worker has been given this entry, or will be: it may be there, and be in the group no longer.
local function is_delivered(queue, entry)
  for _, group in ipairs(redis.pcall('XINFO', 'GROUPS', queue)) do
    if group[2] == GROUP then
      if redis.pcall('XRANGE', queue, '(' .. group[8], entry, 'COUNT', 1)[1] then return true end
      return redis.pcall('XPENDING', queue, GROUP, entry, entry, 1)[1]
    end
  end
end

local function is_somewhere(call, queue, lane)
  if call.state == 'RUNNING' and mend('HEXISTS', PREFIX .. ':workers:' .. lane, call.machine or '') == 1 then return true end
  if call.entry == '' then return mend('ZSCORE', PREFIX .. ':due:' .. lane, 'r ' .. call.id) end
  local entry = call.entry or ''
  return redis.pcall('XRANGE', queue, entry, entry)[1] and is_delivered(queue, entry)
end

local function bring_back(call, queue)
  need_queue(queue)
  drop_entry(queue, call.entry or '')
  local entry = put_into(queue, call.id)
  if not is_delivered(queue, entry) then  -- somebody has moved the group beyond all that comes
    redis.call('UNLINK', queue)
    need_queue(queue)
    entry = put_into(queue, call.id)
  end
  redis.call('HSET', PREFIX .. ':call:' .. call.id, 'state', 'QUEUED', 'entry', entry)
end

local open = {}
for n = 2, #ARGV do
  local call = read_call(ARGV[n], {'state', 'entry', 'lane', 'machine'})
  open[n - 1] = (call.state == 'QUEUED' or call.state == 'RUNNING') and 1 or 0
  if open[n - 1] == 1 then
    local lane = call.lane or ''
    local queue = PREFIX .. ':queue:' .. lane
    if not is_somewhere(call, queue, lane) then bring_back(call, queue) end
  end
end
return open
