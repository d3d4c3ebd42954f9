-- join: a worker is there, or there again. RUNNING -> QUEUED | LOST for calls that its machine claimed in an earlier life;
-- RUNNING -> QUEUED, at no cost, for calls whose claim never reached it because the connection broke.
-- KEYS: 1 queue  2 workers  3 starts
-- ARGV: 1 prefix  2 machine  3 ttl of the lane (s)  4 first join of this process (1), again after a broken connection (0),
--       or awake after a suspension (2), then the ids that it holds
-- Answers the milliseconds until something is due, -1 if nothing will be; after a suspension -2 if nobody has started
-- the machine: it may be that it is not suspended yet.
need_queue(KEYS[1])
local lane, at = lane_of(ARGV[1], KEYS[1]), now_ms()
if ARGV[4] == '2' and not mend('ZSCORE', KEYS[3], ARGV[2]) then return -2 end
if ARGV[4] == '1' then
  lose_calls(ARGV[1], KEYS[1], ARGV[2], 'the machine restarted while it ran the call', false)
else
  local held = {}
  for n = 5, #ARGV do held[ARGV[n]] = true end
  for _, pending in ipairs(claimed_by(KEYS[1], ARGV[2])) do
    if not held[pending[2]] then queue_again(ARGV[1], KEYS[1], pending[1], pending[2]) end
  end
end
mend('HSET', KEYS[2], ARGV[2], at)
if mend('HEXISTS', ARGV[1] .. ':awake:' .. lane, ARGV[2]) == 0 then open_bill(ARGV[1], lane, ARGV[2], at) end
redis.call('EXPIRE', KEYS[2], ARGV[3])
mend('ZREM', KEYS[3], ARGV[2])
return tend_due(ARGV[1], KEYS[1])
