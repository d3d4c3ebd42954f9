-- report: what running calls say before they end; changes no state.
-- ARGV: 1 prefix, then per report: id attempt kind number chunks body
-- Answers the largest number of entries that a client has not read: who sends items then waits.
local most = 0
for n = 2, #ARGV, 6 do
  local id, attempt, kind, number, chunks, body = unpack(ARGV, n, n + 5)
  local key = ARGV[1] .. ':call:' .. id
  local is = fields_of(ARGV[1], id, 'state', 'attempt', 'watch', 'ttl')
  if is[1] ~= 'RUNNING' or is[2] ~= attempt then
    drop_chunks(ARGV[1], chunks)
  else
    local ttl = ttl_of(is[4])
    keep_chunks(ARGV[1], chunks, ttl)
    if kind ~= 'item' then redis.call('HSET', key, kind, body) end
    if kind ~= 'logs' then
      tell(ARGV[1], is[3], ttl, 'report', table.concat({id, attempt, kind, number, chunks}, ' '), 'body', body)
      for client in string.gmatch(string.sub(is[3] or '', 1, MOST_WATCH), '%S+') do
        most = math.max(most, mend('XLEN', ARGV[1] .. ':outcomes:' .. client))
      end
    end
  end
end
return most
