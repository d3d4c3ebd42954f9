-- hand_back: RUNNING -> QUEUED | KILLED, for calls that were claimed and not begun. Not a loss: it costs no attempt of
-- `retries`.
-- Needs: lib_again
-- KEYS: 1 queue   ARGV: 1 prefix, then:
local arg = {
  machine = ARGV[2],
  stops = ARGV[3] == '1',  -- whether it takes no more calls (0, 1): what it has not read of its inbox is handed back, too
  read_to = ARGV[4],  -- as claim has it
}
local FIRST = 5  -- then per call: id attempt
local queue = KEYS[1]

local function hand_back(id, attempt)
  local call = read_call(id)
  if call.state == 'RUNNING' and call.attempt == attempt then queue_again(queue, call) end
end

if arg.stops then
  forget_places(queue, arg.machine)
  for _, left in ipairs(unread(arg.machine, arg.read_to)) do
    redis.call('XDEL', inbox_of(arg.machine), left.entry)
    hand_back(left.id, left.attempt)
  end
end
for n = FIRST, #ARGV, 2 do hand_back(ARGV[n], ARGV[n + 1]) end
