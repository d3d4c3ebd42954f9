-- cancel: QUEUED -> CANCELLED
-- Needs: lib_settle
-- ARGV: 1 prefix, then ids
-- Answers for each 1 if the call was still queued (or is cancelled already), else 0 and nothing has changed.
local answers = {}
for n = 2, #ARGV do
  local call = read_call(ARGV[n])
  if call.state == 'QUEUED' then settle(call, {state = 'CANCELLED', attempt = 0}) end
  answers[n - 1] = (call.state == 'QUEUED' or call.state == 'CANCELLED') and 1 or 0
end
return answers
