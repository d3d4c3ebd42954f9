-- outgrow: RUNNING -> QUEUED | LOST | KILLED, for a call that ran out of memory: QUEUED in the lane of the next larger
-- machine.
-- Needs: lib_again
-- KEYS: 1 queue   ARGV: 1 prefix, then:
local arg = {machine = ARGV[2], region = ARGV[3], id = ARGV[4], attempt = ARGV[5], reason = ARGV[6], logs = ARGV[7]}
local call = read_call(arg.id)
if call.state ~= 'RUNNING' or call.attempt ~= arg.attempt then return end
if call.kill then
  queue_again(KEYS[1], call)
else
  outgrow(KEYS[1], call, {state = 'LOST', attempt = arg.attempt, machine = arg.machine, region = arg.region,
    outcome = arg.reason, logs = arg.logs})
end
