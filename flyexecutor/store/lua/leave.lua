-- leave: a worker goes. Refused while calls wait in its lane, or are soon due, unless it must (its machine is stopped).
-- KEYS: 1 queue  2 workers
-- ARGV: 1 prefix  2 machine  3 must (0, 1)  4 what is soon (ms)  5 until it has been idle for long enough (ms): before
--       that it may go only if it is spare  6 concurrency  7 the pause between two that are suspended (ms; 0: it is not,
--       or it had to wait for its turn already)  8 reason for which what it holds is lost; empty: that is queued again
-- Answers -1 when it has left, else {milliseconds until it may ask again (0 when calls wait now), due | turn | needed}.
-- What it had claimed is queued again first, at no cost in retries: it says so itself, so nothing was lost. That
-- includes a call delivered to it in this very moment, which it has not seen: it then stays for it.
need_queue(KEYS[1])
local lane, at = lane_of(ARGV[1], KEYS[1]), now_ms()
if ARGV[8] ~= '' then lose_calls(ARGV[1], KEYS[1], ARGV[2], ARGV[8], false) end
for _, pending in ipairs(claimed_by(KEYS[1], ARGV[2])) do queue_again(ARGV[1], KEYS[1], pending[1], pending[2]) end
if ARGV[3] == '0' then
  local due, left, pause = tend_due(ARGV[1], KEYS[1]), tonumber(ARGV[5]), tonumber(ARGV[7])
  if length(KEYS[1]) > running(KEYS[1]) then return {0, 'needed'} end
  if due >= 0 and due <= tonumber(ARGV[4]) then return {due, 'due'} end
  if left > 0 and not spare(ARGV[1], KEYS[1], lane, tonumber(ARGV[6]), at) then return {left, 'needed'} end
  if pause > 0 then
    local key = ARGV[1] .. ':suspends'
    local turn = full_at(key, at, 6000 * pause)
    redis.call('SET', key, turn + pause, 'PX', math.ceil(turn + pause - at))
    if turn > at then return {math.ceil(turn - at), 'turn'} end
  end
end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], GROUP, ARGV[2])
mend('HDEL', KEYS[2], ARGV[2])
close_bill(ARGV[1], lane, ARGV[2], at)
return -1
