-- outgrow: RUNNING -> QUEUED in the lane of the next larger machine | LOST, for a call that ran out of memory.
-- KEYS: 1 queue   ARGV: 1 prefix  2 machine  3 region  4 id  5 attempt  6 reason  7 logs
local is = fields_of(ARGV[1], ARGV[4], 'state', 'attempt', 'entry', 'kill')
if is[1] ~= 'RUNNING' or is[2] ~= ARGV[5] then return end
if is[4] then
  queue_again(ARGV[1], KEYS[1], is[3] or '', ARGV[4])
else
  outgrow(ARGV[1], KEYS[1], is[3] or '', ARGV[4], ARGV[2], ARGV[3], ARGV[6], ARGV[7])
end
