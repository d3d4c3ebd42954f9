-- standing: which calls have not ended; QUEUED | RUNNING -> QUEUED for a call that no queue has and no worker runs.
-- KEYS: calls (hashes)   ARGV: 1 prefix
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

local open = {}
for n, key in ipairs(KEYS) do
  local id = string.sub(key, #ARGV[1] + 7)
  local is = fields_of(ARGV[1], id, 'state', 'entry', 'lane', 'machine')
  open[n] = (is[1] == 'QUEUED' or is[1] == 'RUNNING') and 1 or 0
  if open[n] == 1 then
    local lane = is[3] or ''
    local queue, due = ARGV[1] .. ':queue:' .. lane, ARGV[1] .. ':due:' .. lane
    local there
    if is[1] == 'RUNNING' and mend('HEXISTS', ARGV[1] .. ':workers:' .. lane, is[4] or '') == 1 then
      there = true
    elseif is[2] == '' then
      there = mend('ZSCORE', due, 'r ' .. id)
    else
      there = redis.pcall('XRANGE', queue, is[2] or '', is[2] or '')[1] and is_delivered(queue, is[2])
    end
    if not there then
      need_queue(queue)
      drop_entry(queue, is[2] or '')
      local entry = put_into(queue, id)
      if not is_delivered(queue, entry) then  -- somebody has moved the group beyond all that comes
        redis.call('UNLINK', queue)
        need_queue(queue)
        entry = put_into(queue, id)
      end
      redis.call('HSET', key, 'state', 'QUEUED', 'entry', entry)
    end
  end
end
return open
