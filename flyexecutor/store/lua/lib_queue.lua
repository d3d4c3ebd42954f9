-- The calls of a lane that have not ended: its queue has those that wait, in the order of their arrival, its claims those
-- that a machine has.
-- Needs: lib_sound lib_keys
local MOST_ID = 48  -- bytes of a call's id
local IN_ONE_COMMAND = 1000  -- words: Lua passes some thousands at most

-- The last part of "PREFIX:queue:LANE".
local function lane_of(queue)
  return string.sub(queue, #PREFIX + 8)
end

local function claims_of(queue)
  return PREFIX .. ':claims:' .. lane_of(queue)
end

local function queued(queue)
  return mend('ZCARD', queue)
end

local function running(queue)
  return math.max(0, mend('HLEN', claims_of(queue)) - 1)
end

local function length(queue)
  return queued(queue) + running(queue)
end

local function is_id(id)
  return #id <= MOST_ID and string.find(id, '^[%w._-]+$')
end

-- A command with any number of words. Answers the sum of what it answers.
local function in_parts(command, key, words)
  local sum = 0
  for n = 1, #words, IN_ONE_COMMAND do
    sum = sum + mend(command, key, unpack(words, n, math.min(#words, n + IN_ONE_COMMAND - 1)))
  end
  return sum
end

-- Claims: words is call machine ... With the first comes a field without a name, which stays: so the key does, and lives on.
local function note_claims(queue, words)
  words[#words + 1], words[#words + 2] = '', ''
  if in_parts('HSET', claims_of(queue), words) == #words / 2 then
    redis.call('EXPIRE', claims_of(queue), UNFINISHED_TTL)
  end
end

-- A call that waits no longer, and that no machine has.
local function drop(queue, call)
  if call.state ~= 'RUNNING' and mend('ZREM', queue, call.id) == 1 then return end
  if mend('HDEL', claims_of(queue), call.id) == 1 then return end
  mend('ZREM', PREFIX .. ':due:' .. lane_of(queue), 'r ' .. call.id)
end

-- The ids of what this machine has claimed and not finished.
local function claimed_by(queue, machine)
  local found = {}
  local claims = mend('HGETALL', claims_of(queue))
  for n = 1, #claims, 2 do
    local id, by = claims[n], claims[n + 1]
    if id ~= '' and by == machine then
      if is_id(id) then found[#found + 1] = id else redis.call('HDEL', claims_of(queue), id) end
    end
  end
  return found
end
