-- finish: RUNNING -> SUCCEEDED | FAILED | KILLED, for a bundle; then as claim: QUEUED -> RUNNING | FAILED.
-- Needs: lib_load lib_claim
-- KEYS: 1 queue   ARGV: 1 prefix, then:
local arg = {
  machine = ARGV[2],
  region = ARGV[3],
  more = tonumber(ARGV[4]),  -- further calls wanted
  concurrency = tonumber(ARGV[5]),  -- of the lane
  sent = ARGV[6],  -- bytes, for the bill
}
local FIRST, WIDTH = 7, 6  -- then per outcome: id attempt state pieces body logs
-- Answers {whether the worker is spare (0, 1), {head body name} of each call claimed, places of late outcomes (0, 1, ...)}.
-- An outcome whose attempt is not the running one changes nothing. It is late if its call has not ended: it was fenced off,
-- and runs again rightly; else it was sent twice.
-- Stored, published and acknowledged in one script: killed before it, the call runs again; after it, it has ended.
local queue, lane = KEYS[1], lane_of(KEYS[1])
local TO_FINISH = {'state', 'attempt', 'outcome_pieces', unpack(TO_SETTLE)}
local late = {}
if arg.sent ~= '0' then mend('HINCRBY', PREFIX .. ':meter:' .. lane, 'sent', arg.sent) end
for n = FIRST, #ARGV, WIDTH do
  local id, attempt, state, pieces, body, logs = unpack(ARGV, n, n + WIDTH - 1)
  local call = read_call(id, TO_FINISH)
  local runs = call.state == 'RUNNING'
  if runs and call.attempt == attempt then
    settle(call, {state = state, attempt = attempt, machine = arg.machine, region = arg.region, outcome_pieces = pieces,
      outcome = body, logs = logs})
  elseif call.state and (not STATES[call.state] or runs and not whole(call.attempt, MOST_ATTEMPTS)) then
    drop_pieces(pieces)
    drop_entry(queue, call.entry or '')
    fail_damaged(call, 'state or attempt', call.state .. ' ' .. (call.attempt or ''))
  elseif call.outcome_pieces == pieces then
    keep_pieces(pieces, ttl_of(call))  -- sent again after a lost answer: stored again, and perhaps for too long
  elseif call.state then
    drop_pieces(pieces)
  end  -- else `map` kept no record: a client may be about to read it
  if call.state == 'QUEUED' or (runs and call.attempt ~= attempt) then late[#late + 1] = (n - FIRST) / WIDTH end
end
-- One worker stays for a while after its last call, however long that was.
local window = count(mend('HGET', PREFIX .. ':load:' .. lane, 'window'))
if window > 0 then note_load(lane, math.max(1, length(queue)), window, now_ms()) end
if mend('HEXISTS', PREFIX .. ':workers:' .. lane, arg.machine) == 0 then return {0, {}, late} end
local claimed = claim_more(queue, arg.more, arg)
if #claimed == 0 and spare(queue, arg.concurrency, now_ms()) then return {1, claimed, late} end
return {0, claimed, late}
