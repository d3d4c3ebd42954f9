-- The machines of a lane that rest, by the word of their workers, which have left: who needs one starts it without a look at
-- Fly. A hint, and no more: a machine that has gone since is refused to him who starts it, and a look finds what is missing
-- here.
-- Needs: lib_queue
local MOST_RESTING = 1000
local SETTLED = 1000  -- ms after which who has left rests indeed, most likely

local function resting_of(queue)
  return PREFIX .. ':resting:' .. lane_of(queue)
end

-- proof: of the worker, for who is to start its machine.
local function note_resting(queue, machine, proof, at)
  local resting = resting_of(queue)
  mend('ZADD', resting, at, machine .. ' ' .. proof)
  local over = redis.call('ZCARD', resting) - MOST_RESTING
  if over > 0 then redis.call('ZPOPMIN', resting, over) end
  redis.call('EXPIRE', resting, UNFINISHED_TTL)
end

-- Takes a machine that rests, and answers it with its proof; nothing if none does. Of those that rest indeed the one that
-- has for the shortest time; who is on the way to it comes last.
local function take_resting(queue, workers, starts, at)
  local resting = resting_of(queue)
  while true do
    local name = mend('ZRANGE', resting, at - SETTLED, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1)[1]
      or redis.call('ZRANGE', resting, 0, 0)[1]
    if not name then return end
    redis.call('ZREM', resting, name)
    local machine, proof = string.match(name, '^([%w_-]+) (%x+)$')
    local idle = machine and mend('HEXISTS', workers, machine) == 0 and not mend('ZSCORE', starts, machine)
    if idle then return machine, proof end
  end
end
