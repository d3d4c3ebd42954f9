-- What becomes of calls whose machine died.
-- Needs: lib_again
local UNREAD_FOR = 5000  -- ms: a worker that does not hang reads at once

-- RUNNING -> QUEUED | LOST | KILLED; FAILED if it is damaged. loss: of which machine, its reason, whether for lack of memory
-- (oom).
local function lose_call(queue, call, loss)
  local losses, retries = whole(call.losses, MOST_ATTEMPTS), whole(call.retries, LARGEST)
  local attempt = whole(call.attempt, MOST_ATTEMPTS)
  local damaged = not attempt and 'attempt' or not loss.oom and (not losses and 'losses' or not retries and 'retries')
  local lost = {state = 'LOST', attempt = attempt, machine = loss.machine, region = call.region, outcome = loss.reason}
  if call.state ~= 'RUNNING' or call.kill then
    queue_again(queue, call)
  elseif damaged then
    fail_damaged(call, damaged, call[damaged])
  elseif loss.oom then
    outgrow(queue, call, lost)
  elseif losses < retries then
    redis.call('HSET', PREFIX .. ':call:' .. call.id, 'losses', losses + 1)
    queue_again(queue, call)
  else
    settle(call, lost)
  end
end

-- A machine died, or came back without its memory: its calls run again, or are LOST when their attempts are spent. Answers
-- how many it had.
local function lose_calls(queue, loss)
  local claimed = claimed_by(queue, loss.machine)
  for _, id in ipairs(claimed) do
    local call = read_call(id)
    mend('HDEL', claims_of(queue), id)  -- the record may name another lane
    lose_call(queue, call, loss)
  end
  return #claimed
end

-- What a machine has that is no worker any more: nobody would bury it again.
local function take_from_the_buried(queue, workers)
  local gone = {}
  for _, machine in ipairs(mend('HVALS', claims_of(queue))) do
    if machine ~= '' and not gone[machine] and mend('HEXISTS', workers, machine) == 0 then gone[machine] = true end
  end
  for machine in pairs(gone) do lose_calls(queue, {machine = machine, reason = 'its machine is gone'}) end
end

-- What a worker that hangs does not read others may run, if it may run twice: perhaps it had begun, and could not say so.
local function take_back_unread(queue, workers, at)
  if running(queue) == 0 then return end
  for _, machine in ipairs(mend('HKEYS', workers)) do
    local oldest = mend('XRANGE', inbox_of(machine), '-', '+', 'COUNT', 1)[1]
    if oldest and at - tonumber(string.match(oldest[1], '^%d+')) >= UNREAD_FOR then
      forget_places(queue, machine)
      for _, left in ipairs(unread(machine, '')) do
        local call = read_call(left.id)
        local stale = call.state ~= 'RUNNING' or call.attempt ~= left.attempt
        local may_run_again = call.kill or count(call.losses) < count(call.retries)
        if stale or may_run_again then redis.call('XDEL', inbox_of(machine), left.entry) end
        if may_run_again and not stale then lose_call(queue, call, {machine = machine}) end
      end
    end
  end
end
