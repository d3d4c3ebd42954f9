-- kill: QUEUED -> CANCELLED; has the worker of a RUNNING call stop it, which then ends as KILLED.
-- Needs: lib_places
-- ARGV: 1 prefix  2 id
-- Answers the state in which the call was; nothing if there is no such call.
-- The record remembers the order: a worker that dies, or hands the call back, before it has read it changes nothing.
local call = read_call(ARGV[2])
if call.state == 'QUEUED' then
  settle(call, {state = 'CANCELLED', attempt = 0})
elseif call.state == 'RUNNING' and not call.kill then
  redis.call('HSET', PREFIX .. ':call:' .. call.id, 'kill', 1)
  local inbox = inbox_of(call.machine or '')
  mend('XADD', inbox, '*', 'kill', call.id)
  redis.call('EXPIRE', inbox, UNFINISHED_TTL)
end
return call.state
