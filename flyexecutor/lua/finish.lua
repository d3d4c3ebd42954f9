-- finish: RUNNING -> SUCCEEDED | FAILED, for a batch; then claim: QUEUED -> RUNNING.
-- KEYS: 1 queue   ARGV: 1 prefix  2 machine  3 region  4 further calls wanted, then per outcome: id attempt state chunks body
-- Answers {id attempt chunks body} of each call claimed.
-- An outcome whose attempt is not the running one is late or fenced off, and changes nothing.
-- Stored, published and acknowledged in one script: killed before it, the call runs again; after it, it has ended.
local prefix, machine, region = ARGV[1], ARGV[2], ARGV[3]
for n = 5, #ARGV, 5 do
  local id, attempt, state, chunks, body = ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3], ARGV[n + 4]
  local is = redis.call('HMGET', prefix .. ':call:' .. id, 'state', 'attempt', 'entry', 'watch', 'ttl', 'keep', 'lane', 'chunks')
  if is[1] == 'RUNNING' and is[2] == attempt then
    settle(prefix, id, {is[3], is[4], is[5], is[6], is[7], is[8]}, state, attempt, machine, region, chunks, body)
  end
end
return claim_more(prefix, KEYS[1], tonumber(ARGV[4]), machine, region)
