-- leave: a worker goes. Refused while calls wait in its lane, or are soon due, unless it must (its machine is stopped).
-- KEYS: 1 queue  2 workers   ARGV: 1 prefix  2 machine  3 must (0, 1)  4 what is soon (ms)
-- Answers -1 when it has left, else the milliseconds until it may ask again: 0 when calls wait now.
-- What it had claimed is queued again first, at no cost in retries: it says so itself, so nothing was lost. That
-- includes a call delivered to it in this very moment, which it has not seen: it then stays for it.
need_queue(KEYS[1])
for _, pending in ipairs(claimed_by(KEYS[1], ARGV[2])) do queue_again(ARGV[1], KEYS[1], pending[1], pending[2]) end
if ARGV[3] == '0' then
  local due = tend_due(ARGV[1], KEYS[1])
  if redis.call('XLEN', KEYS[1]) > running(KEYS[1]) then return 0 end
  if due >= 0 and due <= tonumber(ARGV[4]) then return due end
end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], GROUP, ARGV[2])
redis.call('HDEL', KEYS[2], ARGV[2])
return -1
