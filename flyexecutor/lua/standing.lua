-- standing: which calls have not ended; changes nothing.
-- KEYS: calls (hashes)
-- Answers for each 1 if it is QUEUED or RUNNING, else 0: it has ended, or is not there, or what is there is no call.
local open = {}
for n, key in ipairs(KEYS) do
  local state = redis.pcall('HGET', key, 'state')
  open[n] = (state == 'QUEUED' or state == 'RUNNING') and 1 or 0
end
return open
