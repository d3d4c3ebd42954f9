-- join: a worker is there, or there again. RUNNING -> QUEUED | LOST for calls that its machine claimed in an earlier life;
-- RUNNING -> QUEUED, at no cost, for calls whose claim never reached it because the connection broke.
-- KEYS: 1 queue  2 workers  3 starts
-- ARGV: 1 prefix  2 machine  3 ttl of the lane (s)  4 first join of this process (0, 1), then the ids that it holds
-- Answers the milliseconds until something is due, -1 if nothing will be.
need_queue(KEYS[1])
if ARGV[4] == '1' then
  lose_calls(ARGV[1], KEYS[1], ARGV[2], 'the machine restarted while it ran the call', false)
else
  local held = {}
  for n = 5, #ARGV do held[ARGV[n]] = true end
  for _, pending in ipairs(claimed_by(KEYS[1], ARGV[2])) do
    if not held[pending[2]] then queue_again(ARGV[1], KEYS[1], pending[1], pending[2]) end
  end
end
redis.call('HSET', KEYS[2], ARGV[2], now_ms())
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('ZREM', KEYS[3], ARGV[2])
return tend_due(ARGV[1], KEYS[1])
