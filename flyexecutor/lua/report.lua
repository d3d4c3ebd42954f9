-- report: what running calls say before they end; changes no state.
-- ARGV: 1 prefix, then per report: id attempt kind number chunks body
-- Answers the largest number of entries that a client has not read: who sends items then waits.
local most = 0
for n = 2, #ARGV, 6 do
  local id, attempt, kind, number, chunks, body = unpack(ARGV, n, n + 5)
  local key = ARGV[1] .. ':call:' .. id
  local is = redis.call('HMGET', key, 'state', 'attempt', 'watch', 'ttl')
  if is[1] ~= 'RUNNING' or is[2] ~= attempt then
    drop_chunks(ARGV[1], chunks)
  else
    keep_chunks(ARGV[1], chunks, is[4])
    if kind ~= 'item' then redis.call('HSET', key, kind, body) end
    if kind ~= 'logs' then
      tell(ARGV[1], is[3], is[4], 'report', table.concat({id, attempt, kind, number, chunks}, ' '), 'body', body)
      for client in string.gmatch(is[3], '%S+') do
        most = math.max(most, redis.call('XLEN', ARGV[1] .. ':outcomes:' .. client))
      end
    end
  end
end
return most
