-- claim: QUEUED -> RUNNING, for entries that a blocking read has delivered; those that expired: QUEUED -> FAILED.
-- KEYS: 1 queue   ARGV: 1 prefix  2 machine  3 region  4 further calls wanted, then per delivered entry: entry id
-- Answers {head body name} of each call claimed. A worker that was buried gets none, and an error that has it join again: its
-- machine was suspended or cut off for a while, and nobody counts on it.
if mend('HEXISTS', ARGV[1] .. ':workers:' .. lane_of(ARGV[1], KEYS[1]), ARGV[2]) == 0 then
  need_queue(KEYS[1])
  -- Only what is still its own: what it was told of has perhaps ended since, or runs elsewhere.
  for _, pending in ipairs(claimed_by(KEYS[1], ARGV[2])) do queue_again(ARGV[1], KEYS[1], pending[1], pending[2]) end
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], GROUP, ARGV[2])
  return redis.error_reply('NOGROUP this worker was buried')
end
local entries = {}
for n = 5, #ARGV, 2 do entries[#entries + 1] = {ARGV[n], {'id', ARGV[n + 1]}} end
local claimed = claim_entries(ARGV[1], KEYS[1], entries, ARGV[2], ARGV[3])
for _, more in ipairs(claim_more(ARGV[1], KEYS[1], tonumber(ARGV[4]), ARGV[2], ARGV[3])) do
  claimed[#claimed + 1] = more
end
return claimed
