-- join: a worker is there, or there again. RUNNING -> QUEUED | LOST | KILLED | FAILED for calls that its machine claimed in an
-- earlier life; RUNNING -> QUEUED | KILLED, at no cost, for calls whose claim never reached it because the connection broke.
-- As due: QUEUED -> FAILED. No call is in its inbox then, and it has no places.
-- Needs: lib_bill lib_lose lib_due
-- KEYS: 1 queue  2 workers  3 starts
-- ARGV: 1 prefix  2 machine  3 first join of this process (1), again after a broken connection (0), or awake after a
--       suspension (2), then the ids that it holds
-- Answers the milliseconds until something is due, -1 if nothing will be; after a suspension -2 if nobody has started
-- the machine: it may be that it is not suspended yet. Who is a worker already has been started: the answer was lost.
local queue, workers, starts = unpack(KEYS)
local machine, how = ARGV[2], ARGV[3]
local lane, at = lane_of(queue), now_ms()
local started = mend('ZSCORE', starts, machine)
if how == '2' and not started and mend('HEXISTS', workers, machine) == 0 then return -2 end
forget_places(queue, machine)
if how == '1' then
  forget_inbox(machine)
  lose_calls(queue, {machine = machine, reason = 'the machine restarted while it ran the call'})
else
  -- Orders to kill stay there: they are for what it holds.
  for _, left in ipairs(unread(machine, '')) do redis.call('XDEL', inbox_of(machine), left.entry) end
  local held = {}
  for n = 4, #ARGV do held[ARGV[n]] = true end
  hand_back_all(queue, machine, held)
end
mend('HSET', workers, machine, at)
if redis.call('EXPIRE', inbox_of(machine), UNFINISHED_TTL) == 0 then
  redis.call('XADD', inbox_of(machine), 'MAXLEN', 0, '*', 'none', '')  -- so that it ends by itself, whatever comes
  redis.call('EXPIRE', inbox_of(machine), UNFINISHED_TTL)
end
if mend('HEXISTS', PREFIX .. ':awake:' .. lane, machine) == 0 then open_bill(lane, machine, at) end
redis.call('EXPIRE', workers, UNFINISHED_TTL)
mend('ZREM', starts, machine)
return tend_due(queue)
