-- hand_back: RUNNING -> QUEUED | KILLED, for calls that were claimed and not begun. Not a loss: it costs no attempt of
-- `retries`.
-- Needs: lib_again
-- KEYS: 1 queue   ARGV: 1 prefix, then per call: id attempt
for n = 2, #ARGV, 2 do
  local call = read_call(ARGV[n])
  if call.state == 'RUNNING' and call.attempt == ARGV[n + 1] then queue_again(KEYS[1], call.entry or '', call) end
end
