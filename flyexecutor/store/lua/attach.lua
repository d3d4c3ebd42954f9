-- attach: lets a further client hear of a call's outcome; changes no state.
-- Needs: lib_tell
-- ARGV: 1 prefix  2 id  3 client
-- Answers nothing for a call that is not there, else {head body logs progress lane name}; pieces, body and logs mean
-- something only if the state is final.
local call = read_call(ARGV[2], {'state', 'attempt', 'machine', 'region', 'outcome_pieces', 'outcome', 'watch', 'queued',
  'started', 'finished', 'logs', 'progress', 'lane', 'keep', 'name'})
if not call.state then return nil end  -- what is no hash is no call either
if call.state == 'QUEUED' or call.state == 'RUNNING' then add_watcher(call, ARGV[3]) end
return {outcome_head(call, call.outcome_pieces), call.outcome or '', call.logs or '', call.progress or '', call.lane, call.name}
