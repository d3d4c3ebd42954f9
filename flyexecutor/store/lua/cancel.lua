-- cancel: QUEUED -> CANCELLED
-- ARGV: 1 prefix, then ids
-- Answers for each 1 if the call was still queued (or is cancelled already), else 0 and nothing has changed.
local answers = {}
for n = 2, #ARGV do
  local state = fields_of(ARGV[1], ARGV[n], 'state')[1]
  if state == 'QUEUED' then
    settle(ARGV[1], ARGV[n], read_record(ARGV[1], ARGV[n]), 'CANCELLED', 0, '', '', '-', '', '')
  end
  answers[n - 1] = (state == 'QUEUED' or state == 'CANCELLED') and 1 or 0
end
return answers
