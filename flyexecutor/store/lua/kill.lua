-- kill: has the worker of a RUNNING call stop it, which then ends as KILLED; QUEUED -> CANCELLED.
-- KEYS: 1 call (hash)   ARGV: 1 prefix  2 id
-- Answers the state in which the call was; nothing if there is no such call.
-- The record remembers the order: a worker that dies, or hands the call back, before it has read it changes nothing.
local is = fields_of(ARGV[1], ARGV[2], 'state', 'machine', 'kill')
if is[1] == 'QUEUED' then
  settle(ARGV[1], ARGV[2], read_record(ARGV[1], ARGV[2]), 'CANCELLED', 0, '', '', '-', '', '')
elseif is[1] == 'RUNNING' and not is[3] then
  redis.call('HSET', KEYS[1], 'kill', 1)
  local orders = ARGV[1] .. ':orders:' .. (is[2] or '')
  mend('XADD', orders, 'MAXLEN', 1000, '*', 'id', ARGV[2])
  redis.call('EXPIRE', orders, DAY)
end
return is[1]
