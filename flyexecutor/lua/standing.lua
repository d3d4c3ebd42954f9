-- standing: which calls have not ended; QUEUED | RUNNING -> QUEUED for a call that no queue has and no worker runs.
-- KEYS: calls (hashes)   ARGV: 1 prefix
-- Answers for each 1 if it is QUEUED or RUNNING, else 0: it has ended, or is not there, or what is there is no call.
-- A queue that was damaged or removed has lost its entries: who waits for these calls would wait for ever.
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
      there = redis.pcall('XRANGE', queue, is[2] or '', is[2] or '')[1]
    end
    if not there then
      need_queue(queue)
      redis.call('HSET', key, 'state', 'QUEUED', 'entry', put_into(queue, id))
    end
  end
end
return open
