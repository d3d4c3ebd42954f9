-- bury: RUNNING -> QUEUED | LOST | KILLED, for all calls of a machine of which Fly says that it is gone.
-- KEYS: 1 queue  2 workers
-- ARGV: 1 prefix  2 machine  3 the join that was seen (ms)  4 reason  5 whether it ran out of memory (0, 1)
-- Answers how many calls it had. -1, and nothing is done, if it has left or joined again since: either took them back.
need_queue(KEYS[1])
if mend('HGET', KEYS[2], ARGV[2]) ~= ARGV[3] then return -1 end
local lost = lose_calls(ARGV[1], KEYS[1], ARGV[2], ARGV[4], ARGV[5] == '1')
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], GROUP, ARGV[2])
mend('HDEL', KEYS[2], ARGV[2])
close_bill(ARGV[1], lane_of(ARGV[1], KEYS[1]), ARGV[2], now_ms())
return lost
