-- retry: RUNNING -> QUEUED, for a call that raised and is tried again: at once, or when it is due.
-- KEYS: 1 queue   ARGV: 1 prefix  2 id  3 attempt  4 milliseconds to wait
-- Killed right after: the due set remembers, and whoever is awake at that time queues it.
local key = ARGV[1] .. ':call:' .. ARGV[2]
local is = fields_of(ARGV[1], ARGV[2], 'state', 'attempt', 'entry', 'kill', 'raised')
if is[1] ~= 'RUNNING' or is[2] ~= ARGV[3] then return end
local raised = whole(is[5] or 0, MOST_ATTEMPTS)
if not raised then
  fail_damaged(ARGV[1], KEYS[1], is[3] or '', ARGV[2], 'raised', is[5])
  return
end
redis.call('HSET', key, 'raised', raised + 1)
if is[4] or ARGV[4] == '0' then
  queue_again(ARGV[1], KEYS[1], is[3] or '', ARGV[2])
  return
end
drop_entry(KEYS[1], is[3] or '')
redis.call('HSET', key, 'state', 'QUEUED', 'entry', '')
local due = ARGV[1] .. ':due:' .. lane_of(ARGV[1], KEYS[1])
mend('ZADD', due, now_ms() + ARGV[4], 'r ' .. ARGV[2])
redis.call('EXPIRE', due, 7 * DAY)
