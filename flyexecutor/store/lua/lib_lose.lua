-- What becomes of calls whose machine died.
-- Needs: lib_again

-- RUNNING -> QUEUED | LOST | KILLED; FAILED if it is damaged. loss: of which machine, its reason, whether for lack of memory
-- (oom).
local function lose_call(queue, entry, call, loss)
  local losses, retries = whole(call.losses, MOST_ATTEMPTS), whole(call.retries, LARGEST)
  local attempt = whole(call.attempt, MOST_ATTEMPTS)
  local damaged = not attempt and 'attempt' or not loss.oom and (not losses and 'losses' or not retries and 'retries')
  local lost = {state = 'LOST', attempt = attempt, machine = loss.machine, region = call.region, outcome = loss.reason}
  if call.state ~= 'RUNNING' or call.kill then
    queue_again(queue, entry, call)
  elseif damaged then
    drop_entry(queue, entry)  -- the record may name another
    fail_damaged(call, damaged, call[damaged])
  elseif loss.oom then
    outgrow(queue, entry, call, lost)
  elseif losses < retries then
    redis.call('HSET', PREFIX .. ':call:' .. call.id, 'losses', losses + 1)
    queue_again(queue, entry, call)
  else
    settle(call, lost)
  end
end

-- A machine died, or came back without its memory: its calls run again, or are LOST when their attempts are spent. Answers
-- how many it had.
local function lose_calls(queue, loss)
  local claimed = claimed_by(queue, loss.machine)
  for _, lost in ipairs(claimed) do lose_call(queue, lost.entry, read_call(lost.id), loss) end
  return #claimed
end

-- A host that vanished may have left a blocking read in Redis, which still takes a call after its worker was buried: that
-- call has a consumer that is no worker, and nobody would bury it again.
local function take_from_the_buried(queue, workers)
  for _, consumer in ipairs(redis.call('XPENDING', queue, GROUP)[4] or {}) do
    local machine = consumer[1]
    if mend('HEXISTS', workers, machine) == 0 then
      lose_calls(queue, {machine = machine, reason = 'its machine is gone'})
      redis.call('XGROUP', 'DELCONSUMER', queue, GROUP, machine)
    end
  end
end
