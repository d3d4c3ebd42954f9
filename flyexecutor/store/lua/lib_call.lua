-- The record of a call, read.
-- Needs: lib_sound lib_keys lib_payload
local STATES = {QUEUED = 1, RUNNING = 1, SUCCEEDED = 1, FAILED = 1, CANCELLED = 1, LOST = 1, KILLED = 1}
local MOST_BODY = 1048576  -- bytes of what a record holds of a call; records.py: INLINE_BYTES
-- All that is not large: it is no field that only one script wants.
local RECORD = {'state', 'attempt', 'machine', 'region', 'lane', 'watch', 'keep', 'ttl', 'pieces', 'parts', 'queued',
  'started', 'expires', 'losses', 'retries', 'raised', 'kill', 'bigger'}

-- Fields of a call's record, by name, and its id; nothing else of what is no record.
local function read_call(id, names)
  names = names or RECORD
  local values = redis.pcall('HMGET', PREFIX .. ':call:' .. id, unpack(names))
  local call = values.err and {} or by_name(names, values)
  call.id = id
  return call
end

-- For how long the outcome of a call is kept (s).
local function ttl_of(call)
  return whole(call.ttl, LARGEST, DAY)
end

-- The field that keeps a call from being run; nothing if none does.
local function damaged_field(call)
  if call.state and not STATES[call.state] then return 'state' end
  if call.state ~= 'QUEUED' then return end
  if not whole(call.attempt, MOST_ATTEMPTS) then return 'attempt' end
  if call.pieces ~= '-' and not pieces_of(call.pieces) then return 'pieces' end
  if not call.call or #call.call > MOST_BODY then return 'call' end
  if call.losses and not whole(call.losses, MOST_ATTEMPTS) then return 'losses' end
  if call.raised and not whole(call.raised, MOST_ATTEMPTS) then return 'raised' end
  if call.expires and not whole(call.expires, LARGEST) then return 'expires' end
  if not call.parts then return end
  if #call.parts > MOST_PARTS then return 'parts' end
  for part in string.gmatch(call.parts, '%S+') do
    if not pieces_of(part) then return 'parts' end
  end
end
