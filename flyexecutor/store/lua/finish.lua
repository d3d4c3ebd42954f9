-- finish: RUNNING -> SUCCEEDED | FAILED | KILLED, for a batch; then claim: QUEUED -> RUNNING.
-- KEYS: 1 queue
-- ARGV: 1 prefix  2 machine  3 region  4 further calls wanted  5 concurrency of the lane  6 bytes sent, for the bill,
--       then per outcome: id attempt state chunks body logs
-- Answers {whether the worker is spare (0, 1), {head body name} of each call claimed, places of late outcomes (0, 1, ...)}.
-- An outcome whose attempt is not the running one changes nothing. It is late if its call has not ended: it was fenced off,
-- and runs again rightly; else it was sent twice.
-- Stored, published and acknowledged in one script: killed before it, the call runs again; after it, it has ended.
local prefix, machine, region, lane = ARGV[1], ARGV[2], ARGV[3], lane_of(ARGV[1], KEYS[1])
local late = {}
if ARGV[6] ~= '0' then mend('HINCRBY', prefix .. ':meter:' .. lane, 'sent', ARGV[6]) end
for n = 7, #ARGV, 6 do
  local id, attempt, state, chunks, body, logs = unpack(ARGV, n, n + 5)
  local is = fields_of(prefix, id, 'state', 'attempt', 'outcome_chunks', unpack(RECORD))
  if is[1] == 'RUNNING' and is[2] == attempt then
    settle(prefix, id, {unpack(is, 4, 3 + #RECORD)}, state, attempt, machine, region, chunks, body, logs)
  elseif is[1] and (not STATES[is[1]] or is[1] == 'RUNNING' and not whole(is[2], MOST_ATTEMPTS)) then
    drop_chunks(prefix, chunks)
    fail_damaged(prefix, KEYS[1], is[4] or '', id, 'state or attempt', is[1] .. ' ' .. (is[2] or ''))
  elseif is[3] == chunks then
    keep_chunks(prefix, chunks, ttl_of(is[6]))  -- sent again after a lost answer: stored again, and perhaps for too long
  elseif is[1] then
    drop_chunks(prefix, chunks)
  end  -- else `map` kept no record: a client may be about to read it
  if is[1] == 'QUEUED' or (is[1] == 'RUNNING' and is[2] ~= attempt) then late[#late + 1] = (n - 7) / 6 end
end
-- One worker stays for a while after its last call, however long that was.
local window = count(mend('HGET', prefix .. ':load:' .. lane, 'window'))
if window > 0 then note_load(prefix, lane, math.max(1, length(KEYS[1])), window, now_ms()) end
if mend('HEXISTS', prefix .. ':workers:' .. lane, machine) == 0 then return {0, {}, late} end
local claimed = claim_more(prefix, KEYS[1], tonumber(ARGV[4]), machine, region)
if #claimed == 0 and spare(prefix, KEYS[1], lane, tonumber(ARGV[5]), now_ms()) then return {1, claimed, late} end
return {0, claimed, late}
