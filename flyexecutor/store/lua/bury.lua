-- bury: RUNNING -> QUEUED | LOST | KILLED | FAILED, for all calls of a machine of which Fly says that it is gone.
-- Needs: lib_bill lib_lose
-- KEYS: 1 queue  2 workers   ARGV: 1 prefix, then:
local arg = {
  machine = ARGV[2],
  joined = ARGV[3],  -- when, as it was seen (ms)
  reason = ARGV[4],
  oom = ARGV[5] == '1',  -- whether it ran out of memory (0, 1)
}
-- Answers how many calls it had. -1, and nothing is done, if it has left or joined again since: either took them back.
local queue, workers = unpack(KEYS)
if mend('HGET', workers, arg.machine) ~= arg.joined then return -1 end
forget_places(queue, arg.machine)
forget_inbox(arg.machine)
local lost = lose_calls(queue, arg)
mend('HDEL', workers, arg.machine)
close_bill(lane_of(queue), arg.machine, now_ms())
return lost
