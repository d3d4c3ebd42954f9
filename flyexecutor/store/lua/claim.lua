-- claim: QUEUED -> RUNNING | FAILED, for entries that a blocking read has delivered; FAILED: it has expired.
-- Of a worker that was buried: RUNNING -> QUEUED | KILLED.
-- Needs: lib_again lib_claim
-- KEYS: 1 queue
-- ARGV: 1 prefix  2 machine  3 region  4 further calls wanted, then per delivered entry: entry id
-- Answers {head body name} of each call claimed. A worker that was buried gets none, and an error that has it join again: its
-- machine was suspended or cut off for a while, and nobody counts on it.
local queue, worker = KEYS[1], {machine = ARGV[2], region = ARGV[3]}
if mend('HEXISTS', PREFIX .. ':workers:' .. lane_of(queue), worker.machine) == 0 then
  need_queue(queue)
  -- Only what is still its own: what it was told of has perhaps ended since, or runs elsewhere.
  hand_back_all(queue, worker.machine, {})
  redis.call('XGROUP', 'DELCONSUMER', queue, GROUP, worker.machine)
  return redis.error_reply('NOGROUP this worker was buried')
end
local entries = {}
for n = 5, #ARGV, 2 do entries[#entries + 1] = {ARGV[n], {'id', ARGV[n + 1]}} end
local claimed = claim_entries(queue, entries, worker)
for _, more in ipairs(claim_more(queue, tonumber(ARGV[4]), worker)) do claimed[#claimed + 1] = more end
return claimed
