-- report: what running calls say before they end; changes no state.
-- Needs: lib_tell
-- ARGV: 1 prefix, then per report: id attempt kind number pieces body
-- Answers the largest number of entries that a client has not read: who sends items then waits.
local most = 0
for n = 2, #ARGV, 6 do
  local id, attempt, kind, number, pieces, body = unpack(ARGV, n, n + 5)
  local call = read_call(id, {'state', 'attempt', 'watch', 'ttl'})
  if call.state ~= 'RUNNING' or call.attempt ~= attempt then
    drop_pieces(pieces)
  else
    local ttl = ttl_of(call)
    keep_pieces(pieces, ttl)
    if kind ~= 'item' then redis.call('HSET', PREFIX .. ':call:' .. id, kind, body) end
    if kind ~= 'logs' then
      local report = {id = id, attempt = attempt, kind = kind, number = number, pieces = pieces, body = body}
      tell_report(call.watch, ttl, report)
      for client in watchers(call.watch) do most = math.max(most, mend('XLEN', PREFIX .. ':outcomes:' .. client)) end
    end
  end
end
return most
