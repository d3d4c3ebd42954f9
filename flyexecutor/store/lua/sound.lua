-- Put in front of every script, before lib.lua: what is believed of what lies in Redis. Whoever can write there, or a bug,
-- may have left anything: no script may stop half-way at that. MOST_PIECES and MOST_ATTEMPTS are damage.py's.
local DAY = 86400
local STATES = {QUEUED = 1, RUNNING = 1, SUCCEEDED = 1, FAILED = 1, CANCELLED = 1, LOST = 1, KILLED = 1}
local MOST_ID = 48  -- bytes of a call's id
local MOST_BODY = 1048576  -- of what a record holds of a call; records.py: INLINE_BYTES
local MOST_PARTS, MOST_WATCH = 65536, 65536  -- bytes of the words of a record that name them
local LARGEST = 1e14 - 1  -- of all numbers: Lua writes 14 digits; as milliseconds that is the year 5138
local DAMAGE = {'WRONGTYPE', 'not an integer', 'not a valid float', 'overflow', 'exhausted', 'equal or smaller'}

-- Whether an answer of pcall says that what lies in Redis is not what it should be, and not that Redis can't.
local function is_damage(answer)
  if type(answer) ~= 'table' or not answer.err then return false end
  for _, words in ipairs(DAMAGE) do
    if string.find(tostring(answer.err), words, 1, true) then return true end
  end
  return false
end

-- redis.call for a key of which the calls do not depend, or which can be made anew: what has its place goes.
local function mend(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if is_damage(answer) then redis.call('UNLINK', key) end
  return redis.call(command, key, ...)
end

-- A whole number from 0 to `most`; `instead` if it is none.
local function whole(value, most, instead)
  local number = tonumber(value)
  if number and number >= 0 and number <= most and number % 1 == 0 then return number end
  return instead
end

-- Milliseconds, or another number that only counts.
local function count(value)
  return whole(value, LARGEST, 0)
end

-- A value as an error shows it.
local function shown(value)
  if not value then return 'missing' end
  return '"' .. string.gsub(string.sub(value, 1, 80), '[^\32-\126]', '?') .. '"'
end

-- For how long the outcome of a call is kept (s).
local function ttl_of(value)
  return whole(value, LARGEST, DAY)
end

-- Whether the fields of an entry of a queue are what they should be.
local function names_call(fields)
  return #fields == 2 and fields[1] == 'id' and #fields[2] <= MOST_ID and string.find(fields[2], '^[%w._-]+$')
end

-- The name of a large payload, told as "NAME:how many", and its pieces; nothing if that is no such thing.
local function pieces_of(told)
  local name, number = string.match(told or '', '^([%w._:-]+):(%d+)$')
  number = whole(number, MOST_PIECES)
  if number then return name, number end
end

-- Fields of a call's record; nothing of what is no record.
local function fields_of(prefix, id, ...)
  local fields = redis.pcall('HMGET', prefix .. ':call:' .. id, ...)
  return fields.err and {} or fields
end

-- The field of a call that keeps it from being run, and its value; nothing if none does. As claim_entries reads them.
local function what_is_damaged(is)
  local state, attempt, chunks, body, losses, raised, parts, expires = unpack(is, 1, 8)
  if state and not STATES[state] then return 'state', state end
  if state ~= 'QUEUED' then return end
  if not whole(attempt, MOST_ATTEMPTS) then return 'attempt', attempt end
  if chunks ~= '-' and not pieces_of(chunks) then return 'chunks', chunks end
  if not body or #body > MOST_BODY then return 'call', body end
  if losses and not whole(losses, MOST_ATTEMPTS) then return 'losses', losses end
  if raised and not whole(raised, MOST_ATTEMPTS) then return 'raised', raised end
  if parts and #parts > MOST_PARTS then return 'parts', parts end
  if expires and not whole(expires, LARGEST) then return 'expires', expires end
  for part in string.gmatch(parts or '', '%S+') do
    if not pieces_of(part) then return 'parts', parts end
  end
end
