-- cancel: QUEUED -> CANCELLED
-- KEYS: 1 call (hash)   ARGV: 1 prefix  2 id
-- Answers 1 if the call was still queued (or is cancelled already), else 0 and nothing has changed.
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'CANCELLED' then return 1 end
if state ~= 'QUEUED' then return 0 end
settle(ARGV[1], ARGV[2], read_record(ARGV[1], ARGV[2]), 'CANCELLED', 0, '', '', 0, '')
return 1
