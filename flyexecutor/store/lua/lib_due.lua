-- What is to be done about a lane's calls at some time.
-- Needs: lib_places

-- Does what is due: calls whose retry has waited long enough join the queue, those that waited too long end.
-- Answers the milliseconds until something is due again, -1 if nothing will be.
local function tend_due(queue)
  local due, at = PREFIX .. ':due:' .. lane_of(queue), now_ms()
  for _, member in ipairs(mend('ZRANGEBYSCORE', due, '-inf', at, 'LIMIT', 0, 1000)) do
    redis.call('ZREM', due, member)
    local what, id = string.match(member, '^([rx]) (.*)$')
    local call = read_call(id or '')
    if call.state == 'QUEUED' then
      if what == 'x' then
        expire(call)
      else
        put_into(queue, id)
      end
    end
  end
  local next_due = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2]
  if not next_due then return -1 end
  return math.min(DAY * 1000, math.max(0, next_due - at))
end
