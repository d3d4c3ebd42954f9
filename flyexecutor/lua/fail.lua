-- fail: QUEUED -> FAILED, for calls that no machine can be had for.
-- ARGV: 1 prefix, then per call: id body
for n = 2, #ARGV, 2 do
  local id = ARGV[n]
  if redis.call('HGET', ARGV[1] .. ':call:' .. id, 'state') == 'QUEUED' then
    settle(ARGV[1], id, read_record(ARGV[1], id), 'FAILED', 0, '', '', 0, ARGV[n + 1])
  end
end
