-- leave: a worker goes. Refused (0) while calls wait in its lane, unless it must (its machine is being stopped).
-- KEYS: 1 queue  2 workers   ARGV: 1 prefix  2 machine  3 must (0, 1)
-- What it had claimed is queued again first, at no cost in retries: it says so itself, so nothing was lost. That
-- includes a call delivered to it in this very moment, which it has not seen: it then stays for it.
need_queue(KEYS[1])
for _, pending in ipairs(claimed_by(KEYS[1], ARGV[2])) do queue_again(ARGV[1], KEYS[1], pending[1], pending[2]) end
if ARGV[3] == '0' and redis.call('XLEN', KEYS[1]) > running(KEYS[1]) then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], GROUP, ARGV[2])
redis.call('HDEL', KEYS[2], ARGV[2])
return 1
