-- attach: lets a further client hear of a call's outcome; changes no state.
-- KEYS: 1 call (hash)   ARGV: 1 client
-- Answers nothing for a call that is not there, else {head body logs progress lane name}; chunks, body and logs mean
-- something only if the state is final.
local is = redis.pcall('HMGET', KEYS[1], 'state', 'attempt', 'machine', 'region', 'outcome_chunks', 'outcome', 'watch',
  'queued', 'started', 'finished', 'logs', 'progress', 'lane', 'keep', 'name')
if not is[1] then return nil end  -- what is no hash is no call either
if is[1] == 'QUEUED' or is[1] == 'RUNNING' then add_watcher(KEYS[1], is[7], ARGV[1], is[14]) end
local words = {word(is[1]), word(is[2]), word(is[3]), word(is[4]), word(is[5]), count(is[8]), count(is[9]), count(is[10])}
return {table.concat(words, ' '), is[6] or '', is[11] or '', is[12] or '', is[13], is[15]}
