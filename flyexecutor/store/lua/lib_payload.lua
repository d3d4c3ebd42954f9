-- Payloads that are too large for one request, and those that several calls share.
-- Needs: lib_sound lib_keys
local UNUSED_TTL = 300  -- seconds that what calls share is kept for further ones
local MOST_PARTS = 65536  -- bytes of the words of a record that name what it shares

-- The name of a large payload, told as "NAME:how many", and its pieces; nothing if that is no such thing.
local function pieces_of(pieces)
  local name, number = string.match(pieces or '', '^([%w._:-]+):(%d+)$')
  number = whole(number, MOST_PIECES)
  if number then return name, number end
end

-- The keys of a large payload; none if it is not told as one.
local function piece_keys(pieces)
  local keys = {}
  local name, number = pieces_of(pieces)
  for n = 1, number or 0 do keys[n] = PREFIX .. ':piece:' .. name .. ':' .. n end
  return keys
end

local function drop_pieces(pieces)
  for _, key in ipairs(piece_keys(pieces)) do redis.call('UNLINK', key) end
end

local function keep_pieces(pieces, ttl)
  for _, key in ipairs(piece_keys(pieces)) do redis.call('EXPIRE', key, ttl) end
end

local function all_there(pieces)
  local keys = piece_keys(pieces)
  return #keys == 0 or redis.call('EXISTS', unpack(keys)) == #keys
end

-- What several calls share, told as "NAME:how many" with a space in between: one more call needs it, or one less. Whoever
-- stored it may die and leave it behind: so it goes by itself, some minutes after the last call that needed it.
local function use_parts(parts, ttl)
  for part in string.gmatch(parts, '%S+') do
    local uses = PREFIX .. ':uses:' .. (pieces_of(part) or '')
    if is_damage(redis.pcall('INCR', uses)) then redis.call('SET', uses, MOST_ATTEMPTS) end  -- too long kept harms nobody
    redis.call('EXPIRE', uses, ttl)
    keep_pieces(part, ttl)
  end
end

local function release_parts(parts)
  -- Word by word: a pattern that looks for ":" anywhere takes seconds for some thousand characters without one.
  local left = MOST_PIECES
  for part in string.gmatch(string.sub(parts, 1, MOST_PARTS), '%S+') do
    local name, number = pieces_of(part)
    left = left - (number or MOST_PIECES)
    if left < 0 then return end
    local key = PREFIX .. ':uses:' .. (name or '')
    local uses = redis.pcall('DECR', key)
    if type(uses) == 'number' and uses < 1 then
      redis.call('UNLINK', key)
      keep_pieces(part, UNUSED_TTL)
    end
  end
end
