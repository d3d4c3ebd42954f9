-- finish: RUNNING -> SUCCEEDED | FAILED | KILLED, for a batch; then claim: QUEUED -> RUNNING.
-- KEYS: 1 queue
-- ARGV: 1 prefix  2 machine  3 region  4 further calls wanted, then per outcome: id attempt state chunks body logs
-- Answers {head body} of each call claimed.
-- An outcome whose attempt is not the running one is late or fenced off, and changes nothing.
-- Stored, published and acknowledged in one script: killed before it, the call runs again; after it, it has ended.
local prefix, machine, region = ARGV[1], ARGV[2], ARGV[3]
for n = 5, #ARGV, 6 do
  local id, attempt, state, chunks, body, logs = unpack(ARGV, n, n + 5)
  local is = redis.call('HMGET', prefix .. ':call:' .. id, 'state', 'attempt', unpack(RECORD))
  if is[1] == 'RUNNING' and is[2] == attempt then
    settle(prefix, id, {unpack(is, 3, 2 + #RECORD)}, state, attempt, machine, region, chunks, body, logs)
  elseif not is[1] then
    keep_chunks(prefix, chunks, DAY)  -- sent again after a lost answer: a client may be about to read it
  elseif redis.call('HGET', prefix .. ':call:' .. id, 'outcome_chunks') ~= chunks then
    drop_chunks(prefix, chunks)
  end
end
return claim_more(prefix, KEYS[1], tonumber(ARGV[4]), machine, region)
