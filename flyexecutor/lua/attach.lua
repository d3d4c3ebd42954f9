-- attach: lets a further client hear of a call's outcome; changes no state.
-- KEYS: 1 call (hash)   ARGV: 1 client
-- Answers nothing for a call that is not there, else {state attempt machine region chunks outcome}; the last two
-- mean something only if the state is final.
local is = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'machine', 'region', 'outcome_chunks', 'outcome', 'watch')
if not is[1] then return nil end
if (is[1] == 'QUEUED' or is[1] == 'RUNNING') and not string.find(' ' .. is[7] .. ' ', ' ' .. ARGV[1] .. ' ', 1, true) then
  redis.call('HSET', KEYS[1], 'watch', is[7] .. ' ' .. ARGV[1])
end
return {is[1], is[2], is[3] or '', is[4] or '', is[5] or 0, is[6] or ''}
