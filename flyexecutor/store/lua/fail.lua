-- fail: QUEUED -> FAILED, for calls of a lane that no machine can be had for.
-- Needs: lib_settle
-- ARGV: 1 prefix  2 lane, then per call: id body
for n = 3, #ARGV, 2 do
  local call = read_call(ARGV[n])
  if call.state == 'QUEUED' and call.lane == ARGV[2] then
    settle(call, {state = 'FAILED', attempt = 0, outcome = ARGV[n + 1]})
  end
end
