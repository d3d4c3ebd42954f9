-- fail: QUEUED -> FAILED, for calls of a lane that no machine can be had for.
-- ARGV: 1 prefix  2 lane, then per call: id body
for n = 3, #ARGV, 2 do
  local id = ARGV[n]
  local is = fields_of(ARGV[1], id, 'state', 'lane')
  if is[1] == 'QUEUED' and is[2] == ARGV[2] then
    settle(ARGV[1], id, read_record(ARGV[1], id), 'FAILED', 0, '', '', '-', ARGV[n + 1], '')
  end
end
