-- Who has nothing to do, and how it gets a call: a worker notes in the places of its lane how many calls it takes, and waits
-- on its inbox. Whatever script brings a call while somebody has a place claims it for that worker at once: what the heads of
-- the others call QUEUED is RUNNING then.
-- Needs: lib_claim
-- A place is "MACHINE REGION NUMBER": however often a worker notes the same, it is there once.
local NO_PLACE = '-'  -- is taken last: as long as it is there the key is, and lives on
local last_score = 0

local function places_of(queue)
  return PREFIX .. ':places:' .. lane_of(queue)
end

local function inbox_of(machine)
  return PREFIX .. ':inbox:' .. machine
end

-- Orders what comes by its time, and within one script by turn (us).
local function next_score()
  last_score = math.max(now_us(), last_score + 1)
  return last_score
end

-- Takes a place of the worker that rested last, so that a trickle of calls keeps one of them awake; nothing if none has any.
local function take_place(queue)
  while true do
    local name = mend('ZPOPMAX', places_of(queue))[1]
    if not name then return end
    local machine, region = string.match(name, '^(%S+) (%S+) %d+$')
    if machine then return {name = name, machine = machine, region = region == '-' and '' or region} end
  end
end

local function put_into_inbox(machine, told)
  mend('XADD', inbox_of(machine), '*', 'call', told[1], 'body', told[2], 'name', told[3])
end

-- Hands what waits to whoever has a place.
local function hand_out(queue)
  while queued(queue) > 0 do
    local place = take_place(queue)
    if not place then return end
    local told = claim_queued(queue, 1, place)[1]
    if told then
      put_into_inbox(place.machine, told)
    else
      mend('ZADD', places_of(queue), next_score(), place.name)
    end
  end
end

-- A call that is QUEUED waits in this queue, behind all others; or is handed out.
local function put_into(queue, id)
  mend('ZADD', queue, next_score(), id)
  redis.call('EXPIRE', queue, UNFINISHED_TTL)
  hand_out(queue)
end

-- A worker has so many places from now on. worker: its machine, region and concurrency.
local function note_places(queue, worker, number)
  local noted, others = {}, {}
  local region = worker.region == '' and '-' or worker.region
  for n = 1, worker.concurrency do
    local name = worker.machine .. ' ' .. region .. ' ' .. n
    if n <= number then noted[#noted + 1], noted[#noted + 2] = next_score(), name else others[#others + 1] = name end
  end
  if #noted > 0 then
    noted[#noted + 1], noted[#noted + 2] = 0, NO_PLACE
    if in_parts('ZADD', places_of(queue), noted) == #noted / 2 then
      redis.call('EXPIRE', places_of(queue), UNFINISHED_TTL)
    end
  end
  in_parts('ZREM', places_of(queue), others)
end

-- The calls in the inbox of a worker that it has not read. read_to: the entry behind what it has read; empty: nothing.
-- Answers {entry id attempt} of each.
local function unread(machine, read_to)
  local inbox, found = inbox_of(machine), {}
  if read_to ~= '' then mend('XTRIM', inbox, 'MINID', read_to) end
  for _, entry in ipairs(mend('XRANGE', inbox, '-', '+')) do
    local id, attempt = string.match(entry[2][1] == 'call' and entry[2][2] or '', '^(%S+) (%S+) ')
    if id then found[#found + 1] = {entry = entry[1], id = id, attempt = attempt} end
  end
  return found
end

-- A worker takes what waits, less what it will find in its inbox, and notes the places that it has beyond that. worker: its
-- machine, region and concurrency, how many calls it takes (more), how many of them at once (free), read_to, and how many it
-- had places for that it has not read (to_come): if none, there is nothing in its inbox that it will find.
-- waits: whether anything does. Answers {how many calls will come by its inbox, {head body name} of each call claimed}.
local function serve(queue, worker, waits)
  local to_come = 0
  if worker.to_come > 0 then
    to_come = #unread(worker.machine, worker.read_to)
  elseif worker.read_to ~= '' then
    mend('XTRIM', inbox_of(worker.machine), 'MINID', worker.read_to)
  end
  local claimed = waits and claim_queued(queue, math.max(worker.more, worker.free) - to_come, worker) or {}
  local places = math.max(0, math.min(worker.free, worker.concurrency) - to_come - #claimed)
  note_places(queue, worker, places)
  return {to_come + places, claimed}
end

-- A worker gets nothing more, until it notes places again. Before anything of its own is queued again: or that came back.
local function forget_places(queue, machine)
  local places, others = places_of(queue), {}
  for _, name in ipairs(mend('ZRANGE', places, 0, -1)) do
    if string.match(name, '^%S+') == machine then others[#others + 1] = name end
  end
  in_parts('ZREM', places, others)
end

local function forget_inbox(machine)
  redis.call('UNLINK', inbox_of(machine))
end
