-- claim: QUEUED -> RUNNING | FAILED, for what waits in a lane: a worker that has joined, or is free although nothing came
-- by its inbox, takes what it can and notes the places that it has beyond that.
-- Needs: lib_places
-- KEYS: 1 queue   ARGV: 1 prefix, then:
local worker = {
  machine = ARGV[2],
  region = ARGV[3],
  concurrency = tonumber(ARGV[4]),
  more = tonumber(ARGV[5]),  -- calls that it takes
  free = tonumber(ARGV[6]),  -- that it begins at once
  read_to = ARGV[7],  -- the entry of its inbox behind what it has read; empty: it has read nothing
  to_come = tonumber(ARGV[8]),  -- so many it had places for that it has not read
}
-- Answers {how many calls will come by its inbox, {head body name} of each call claimed}. A worker that was buried gets an
-- error that has it join again: its machine was suspended or cut off for a while, and nobody counts on it.
local queue = KEYS[1]
if mend('HEXISTS', PREFIX .. ':workers:' .. lane_of(queue), worker.machine) == 0 then
  return redis.error_reply('BURIED this worker was buried')
end
return serve(queue, worker, true)
