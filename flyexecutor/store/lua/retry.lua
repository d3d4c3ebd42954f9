-- retry: RUNNING -> QUEUED | KILLED | FAILED, for a call that raised and is tried again: at once, or when it is due.
-- Needs: lib_again
-- KEYS: 1 queue   ARGV: 1 prefix  2 id  3 attempt  4 milliseconds to wait
-- Killed right after: the due set remembers, and whoever is awake at that time queues it.
local queue, call = KEYS[1], read_call(ARGV[2])
local key = PREFIX .. ':call:' .. call.id
if call.state ~= 'RUNNING' or call.attempt ~= ARGV[3] then return end
local raised = whole(call.raised or 0, MOST_ATTEMPTS)
if not raised then return fail_damaged(call, 'raised', call.raised) end
redis.call('HSET', key, 'raised', raised + 1)
if call.kill or ARGV[4] == '0' then
  queue_again(queue, call)
  return
end
drop(queue, call)
redis.call('HSET', key, 'state', 'QUEUED')
local due = PREFIX .. ':due:' .. lane_of(queue)
mend('ZADD', due, now_ms() + ARGV[4], 'r ' .. call.id)
redis.call('EXPIRE', due, UNFINISHED_TTL)
