-- hand back: RUNNING -> QUEUED, for calls that were claimed and not begun. Not a loss: it costs no attempt of `retries`.
-- KEYS: 1 queue   ARGV: 1 prefix, then per call: id attempt
for n = 2, #ARGV, 2 do
  local id = ARGV[n]
  local is = fields_of(ARGV[1], id, 'state', 'attempt', 'entry')
  if is[1] == 'RUNNING' and is[2] == ARGV[n + 1] then queue_again(ARGV[1], KEYS[1], is[3] or '', id) end
end
