-- finish: RUNNING -> SUCCEEDED | FAILED | KILLED, for a bundle; then as claim: QUEUED -> RUNNING | FAILED.
-- Needs: lib_load lib_places
-- KEYS: 1 queue   ARGV: 1 prefix, then:
local arg = {
  machine = ARGV[2],
  region = ARGV[3],
  concurrency = tonumber(ARGV[4]),
  more = tonumber(ARGV[5]),
  free = tonumber(ARGV[6]),
  read_to = ARGV[7],
  to_come = tonumber(ARGV[8]),  -- all of these as claim has them
  sent = ARGV[9],  -- bytes, for the bill
}
local FIRST, WIDTH = 10, 6  -- then per outcome: id attempt state pieces body logs
-- Answers {whether the worker is spare (0, 1), how many calls will come by its inbox, {head body name} of each call claimed,
-- which outcomes were late (0, 1, ...)}.
-- An outcome whose attempt is not the running one changes nothing. It is late if its call has not ended: it was fenced off,
-- and runs again rightly; else it was sent twice.
-- Stored, published and acknowledged in one script: killed before it, the call runs again; after it, it has ended.
local queue, lane = KEYS[1], lane_of(KEYS[1])
local TO_FINISH = {'attempt', 'outcome_pieces', unpack(TO_SETTLE)}
local late = {}
if arg.sent ~= '0' then mend('HINCRBY', PREFIX .. ':meter:' .. lane, 'sent', arg.sent) end
settle_together(queue, function(shared)
  for n = FIRST, #ARGV, WIDTH do
    local id, attempt, state, pieces, body, logs = unpack(ARGV, n, n + WIDTH - 1)
    local call = read_call(id, TO_FINISH)
    local runs = call.state == 'RUNNING'
    if runs and call.attempt == attempt then
      settle(call, {state = state, attempt = attempt, machine = arg.machine, region = arg.region, outcome_pieces = pieces,
        outcome = body, logs = logs}, shared)
    elseif call.state and (not STATES[call.state] or runs and not whole(call.attempt, MOST_ATTEMPTS)) then
      drop_pieces(pieces)
      fail_damaged(call, 'state or attempt', call.state .. ' ' .. (call.attempt or ''))
      runs = false  -- it has ended
    elseif call.outcome_pieces == pieces then
      keep_pieces(pieces, ttl_of(call))  -- sent again after a lost answer: stored again, and perhaps for too long
    elseif call.state then
      drop_pieces(pieces)
    end  -- else `map` kept no record: a client may be about to read it
    if call.state == 'QUEUED' or (runs and call.attempt ~= attempt) then late[#late + 1] = (n - FIRST) / WIDTH end
  end
end)
-- Workers stay for a while after their last calls, however long those were: the last one in any case.
local waiting, at = queued(queue), now_ms()
local calls = waiting + running(queue)
local load = note_load(queue, math.max(1, calls), nil, at)
if mend('HEXISTS', PREFIX .. ':workers:' .. lane, arg.machine) == 0 then return {0, 0, {}, late} end
local to_come, claimed = unpack(serve(queue, arg, waiting > 0))
local is_spare = #claimed == 0 and spare(queue, arg.concurrency, at, calls, load)
return {is_spare and 1 or 0, to_come, claimed, late}
