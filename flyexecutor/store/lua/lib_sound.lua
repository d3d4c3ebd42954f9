-- What is believed of what lies in Redis: whoever can write there, or a bug, may have left anything, and no script may stop
-- half-way at that.
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

-- What HMGET answers, by the names of the fields.
local function by_name(names, values)
  local fields = {}
  for n = 1, #names do fields[names[n]] = values[n] end
  return fields
end
