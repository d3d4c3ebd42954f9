-- enqueue: (no such call) -> QUEUED, for a batch; reserves the machines that are missing.
-- KEYS: 1 queue  2 workers  3 starts
-- ARGV: 1 prefix  2 lane  3 max_workers  4 concurrency  5 life of a reservation (ms)  6 reservation name  7 client
--       8 result_ttl (s)  9 ttl of a call that has not ended (s), then per call: id retries keep chunks body
-- Answers the names of the reservations that this client must turn into machines.
-- A call that is stored already is passed over: the same batch may be sent again after a lost answer.
local queue, workers, starts = KEYS[1], KEYS[2], KEYS[3]
local prefix, lane, at = ARGV[1], ARGV[2], now_ms()
need_queue(queue)
for n = 10, #ARGV, 5 do
  local id, retries, keep, chunks, body = ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3], ARGV[n + 4]
  local key = prefix .. ':call:' .. id
  if redis.call('HSETNX', key, 'state', 'QUEUED') == 1 then
    redis.call('HSET', key, 'lane', lane, 'entry', redis.call('XADD', queue, '*', 'id', id), 'queued', at,
      'attempt', 0, 'losses', 0, 'retries', retries, 'keep', keep, 'ttl', ARGV[8], 'watch', ARGV[7],
      'chunks', chunks, 'call', body)
    redis.call('EXPIRE', key, ARGV[9])
  end
end
redis.call('EXPIRE', queue, ARGV[9])
return reserve(queue, workers, starts, ARGV[6], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), at)
