-- The queue of a lane: one entry {id} for each call that is QUEUED or RUNNING.
-- Needs: lib_sound lib_keys
local MOST_ID = 48  -- bytes of a call's id

-- What was in a queue that is made anew is queued again by who waits for it: see standing.lua.
local function need_queue(queue)
  local groups = redis.pcall('XINFO', 'GROUPS', queue)
  for _, group in ipairs(groups) do
    if group[2] == GROUP then return end
  end
  if is_damage(groups) then
    redis.call('UNLINK', queue)
  elseif groups.err and not string.find(tostring(groups.err), 'no such key', 1, true) then
    redis.call('XINFO', 'GROUPS', queue)  -- Redis can't, or we may not: raised, as what it is
  end
  redis.call('XGROUP', 'CREATE', queue, GROUP, '0', 'MKSTREAM')
  redis.call('EXPIRE', queue, UNFINISHED_TTL)
end

local function length(queue)
  return mend('XLEN', queue)
end

local function running(queue)
  return redis.pcall('XPENDING', queue, GROUP)[1] or 0
end

-- The last part of "PREFIX:queue:LANE".
local function lane_of(queue)
  return string.sub(queue, #PREFIX + 8)
end

-- Answers the entry of the call.
local function put_into(queue, id)
  local entry = redis.pcall('XADD', queue, '*', 'id', id)
  if not is_damage(entry) then return entry end
  redis.call('UNLINK', queue)
  need_queue(queue)
  return redis.call('XADD', queue, '*', 'id', id)
end

local function drop_entry(queue, entry)
  redis.pcall('XACK', queue, GROUP, entry)
  redis.pcall('XDEL', queue, entry)
end

-- Whether the fields of an entry are what they should be.
local function names_call(fields)
  return #fields == 2 and fields[1] == 'id' and #fields[2] <= MOST_ID and string.find(fields[2], '^[%w._-]+$')
end

-- What this machine has claimed and not finished: the entry and the call's id of each.
local function claimed_by(queue, machine)
  local found = {}
  for _, pending in ipairs(redis.call('XPENDING', queue, GROUP, '-', '+', 10000, machine)) do
    local entry = pending[1]
    local read = redis.call('XRANGE', queue, entry, entry)
    if #read == 0 or not names_call(read[1][2]) then
      drop_entry(queue, entry)
    else
      found[#found + 1] = {entry = entry, id = read[1][2][2]}
    end
  end
  return found
end
