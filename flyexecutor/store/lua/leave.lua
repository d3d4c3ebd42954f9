-- leave: a worker goes. Refused while calls wait in its lane, or are soon due, unless it must (its machine is stopped).
-- RUNNING -> QUEUED | KILLED for what it had claimed; RUNNING -> LOST | FAILED, too, if there is a reason. As due:
-- QUEUED -> FAILED.
-- Needs: lib_bill lib_lose lib_due lib_load lib_resting
-- KEYS: 1 queue  2 workers   ARGV: 1 prefix, then:
local arg = {
  machine = ARGV[2],
  must = ARGV[3],  -- (0, 1)
  soon = tonumber(ARGV[4]),  -- it stays for what is due within (ms)
  idle_left = tonumber(ARGV[5]),  -- until it has been idle for long enough (ms): before that it may go only if it is spare
  concurrency = tonumber(ARGV[6]),
  pause = tonumber(ARGV[7]),  -- between two that are suspended (ms; 0: it is not, or it had to wait for its turn already)
  reason = ARGV[8],  -- for which what it holds is lost; empty: that is queued again
  read_to = ARGV[9],  -- as claim has it
  proof = ARGV[10],  -- with which its machine is noted as resting; empty: nobody is to start it
}
-- Answers -1 when it has left, else {milliseconds until it may ask again (0 when calls wait now), due | turn | needed}.
-- It has no places then, even if it stays. It stays for what came by its inbox in this very moment. Else, what it had claimed
-- is queued again, at no cost in retries: it says so itself, so nothing was lost.
local queue, workers = unpack(KEYS)
local at = now_ms()
forget_places(queue, arg.machine)
if arg.must == '0' and #unread(arg.machine, arg.read_to) > 0 then return {0, 'needed'} end
if arg.reason ~= '' then lose_calls(queue, arg) end
hand_back_all(queue, arg.machine, {})
if arg.must == '0' then
  local due = tend_due(queue)
  take_back_unread(queue, workers, at)
  if queued(queue) > 0 then return {0, 'needed'} end
  if due >= 0 and due <= arg.soon then return {due, 'due'} end
  if arg.idle_left > 0 and not spare(queue, arg.concurrency, at, length(queue), read_load(lane_of(queue))) then return {arg.idle_left, 'needed'} end
  if arg.pause > 0 then
    local key = PREFIX .. ':suspends'
    local turn = full_at(key, at, 6000 * arg.pause)
    redis.call('SET', key, turn + arg.pause, 'PX', math.ceil(turn + arg.pause - at))
    if turn > at then return {math.ceil(turn - at), 'turn'} end
  end
end
forget_inbox(arg.machine)
mend('HDEL', workers, arg.machine)
close_bill(lane_of(queue), arg.machine, at)
if arg.proof ~= '' then note_resting(queue, arg.machine, arg.proof, at) end
return -1
