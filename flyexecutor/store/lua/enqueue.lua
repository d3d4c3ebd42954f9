-- enqueue: (no such call) -> QUEUED | RUNNING, for a bundle; hands out machines that rest for those that are missing, and
-- reserves the others.
-- Needs: lib_load lib_reserve lib_places
-- KEYS: 1 queue  2 workers  3 starts   ARGV: 1 prefix, then:
local arg = {
  lane = ARGV[2],
  max_workers = tonumber(ARGV[3]),
  concurrency = tonumber(ARGV[4]),
  life = tonumber(ARGV[5]),  -- of a reservation (ms)
  reservation = ARGV[6],  -- the name of the bundle, too
  client = ARGV[7],
  result_ttl = tonumber(ARGV[8]),  -- (s)
  window = tonumber(ARGV[9]),  -- of the lane's load (ms)
  place_left = true,  -- whether somebody may have a place
  wakes = true,
}
local FIRST = 10  -- then per call: id new retries keep pieces body name n, and n further names and values of its record;
-- new (0, 1): its id is of this submit, so that it can be there only if the bundle is sent again
-- Answers {the names of the reservations that this client must turn into machines, MACHINE PROOF ... of those that it must
-- start, how many calls wait}; an error, and nothing has changed, if a large payload is no longer there.
-- A client sends one bundle at a time, their numbers rise, and it sends the same again after a lost answer, or the first may come
-- late, behind others; that must not run what has ended already and left no record, and answers what was granted the first
-- time. A call with a key may be there from another client: this one then hears of its outcome too. It may be there under the id that another key of the ring gives:
-- this one is then told which, before anything else of that call.
local queue, _, starts = unpack(KEYS)
local sent = PREFIX .. ':sent:' .. arg.client
local at = now_ms()

-- Each call of the bundle, by the names of its record; `further`: where ARGV has what goes into it as it is.
local function read_bundle()
  local bundle, n = {}, FIRST
  while n <= #ARGV do
    local id, new, retries, keep, pieces, body, name, further = unpack(ARGV, n, n + 7)
    local call = {id = id, new = new == '1', retries = retries, keep = keep, pieces = pieces, call = body, name = name}
    local last = n + 7 + further
    if last > n + 7 then call.further = {n + 8, last} end
    for m = n + 8, last, 2 do call[ARGV[m]] = ARGV[m + 1] end
    bundle[#bundle + 1] = call
    n = last + 1
  end
  return bundle
end

local function is_all_there(bundle)
  local needed = {}
  for _, call in ipairs(bundle) do
    needed[call.pieces] = true
    for part in string.gmatch(call.parts or '', '%S+') do needed[part] = true end
  end
  for pieces in pairs(needed) do
    if not all_there(pieces) then return false end
  end
  return true
end

-- It may be there under another id: the client is told so, and the call goes by that id then.
local function follow_pointers(call)
  local same = PREFIX .. ':same:' .. call.id
  redis.call('DEL', same)
  for pointer in string.gmatch(call.pointers, '%S+') do
    local other = string.sub(pointer, 1, #call.id)
    if redis.call('EXISTS', PREFIX .. ':call:' .. other) == 1 then
      redis.call('SET', same, pointer, 'EX', UNFINISHED_TTL + arg.result_ttl)
      tell_report(arg.client, arg.result_ttl, {id = call.id, attempt = 0, kind = 'same', body = pointer})
      call.id = other
      return
    end
  end
end

-- What waits, and what was claimed: for one command each.
local waiting, claimed = {}, {}

-- Who has a place for the next call; nobody is asked for twice.
local function find_place()
  arg.place_left = arg.place_left and take_place(queue)
  return arg.place_left
end

local function store(call, key)
  local fields = {'lane', arg.lane, 'queued', at, 'losses', 0, 'retries', call.retries, 'keep', call.keep,
    'ttl', arg.result_ttl, 'watch', arg.client, 'pieces', call.pieces, 'call', call.call, 'name', call.name}
  local place = find_place()
  if place then
    mend('HSET', key, 'state', 'RUNNING', 'attempt', 1, 'machine', place.machine, 'region', place.region,
      'started', at, unpack(fields))
    claimed[#claimed + 1], claimed[#claimed + 2] = call.id, place.machine
    put_into_inbox(place.machine, as_told(call, 1))
  else
    mend('HSET', key, 'state', 'QUEUED', 'attempt', 0, unpack(fields))
    waiting[#waiting + 1], waiting[#waiting + 2] = next_score(), call.id
  end
  redis.call('EXPIRE', key, UNFINISHED_TTL)
  keep_pieces(call.pieces, UNFINISHED_TTL)
  if not call.further then return end
  redis.call('HSET', key, unpack(ARGV, unpack(call.further)))
  if call.expires and place then
    redis.call('HDEL', key, 'expires', 'expired')
  elseif call.expires then
    local due = PREFIX .. ':due:' .. arg.lane
    redis.call('HSET', key, 'expires', at + call.expires)
    mend('ZADD', due, at + call.expires, 'x ' .. call.id)
    redis.call('EXPIRE', due, UNFINISHED_TTL)
  end
  if call.parts then use_parts(call.parts, UNFINISHED_TTL) end
end

-- A call that is there already: who sends it now hears of it, too, unless it is the same bundle again.
local function meet(call, again)
  local known = read_call(call.id, {'state', 'watch', 'keep', 'attempt', 'machine', 'region', 'outcome_pieces', 'queued',
    'started', 'finished', 'outcome', 'pieces', 'progress', 'logs'})
  if known.finished or known.pieces ~= call.pieces then drop_pieces(call.pieces) end
  if again then return end  -- it has been told all there is
  if known.progress then
    local progress = {id = call.id, attempt = known.attempt, kind = 'progress', body = known.progress}
    tell_report(arg.client, arg.result_ttl, progress)
  end
  if known.finished then
    tell_outcome(arg.client, arg.result_ttl, '1', known)
  else
    add_watcher(known, arg.client)
  end
end

-- Of a bundle of this client: CLIENT.NUMBER.
local function number_of(name)
  if string.sub(name, 1, #arg.client + 1) ~= arg.client .. '.' then return 0 end
  return count(string.match(name, '^%d+', #arg.client + 2))
end

-- What is sent again after a lost answer is granted the same.
local function note_sent(woken, expires)
  redis.call('SET', sent, arg.reservation .. ' ' .. expires .. ' ' .. table.concat(woken, ' '), 'EX', 300)
end

-- What this bundle was granted before, as far as nobody else can have been granted it since.
local function held(noted)
  local names, woken = {}, {}
  for _, name in ipairs(mend('ZRANGE', starts, 0, -1)) do
    if string.find(name, arg.reservation .. ':', 1, true) == 1 then names[#names + 1] = name end
  end
  local before, machines = string.match(noted, '^%S+ (%d+) (.*)$')
  for machine, proof in string.gmatch(machines or '', '(%S+) (%S+)') do
    if tonumber(mend('ZSCORE', starts, machine) or 0) == tonumber(before) then
      redis.call('ZADD', starts, at + arg.life, machine)
      woken[#woken + 1], woken[#woken + 2] = machine, proof
    end
  end
  return names, woken, at + arg.life
end

local bundle = read_bundle()
if not is_all_there(bundle) then return redis.error_reply('EXPIRED what a call needs, before the call came') end
local noted = mend('SET', sent, arg.reservation, 'EX', 300, 'GET') or ''
local again = string.match(noted, '^%S+') == arg.reservation
if not again and number_of(noted) > number_of(arg.reservation) then
  again = true
  redis.call('SET', sent, noted, 'EX', 300)
  noted = ''
end
for _, call in ipairs(bundle) do
  if call.pointers and not again and redis.call('EXISTS', PREFIX .. ':call:' .. call.id) == 0 then follow_pointers(call) end
  local key = PREFIX .. ':call:' .. call.id
  if not again and (call.new or mend('HSETNX', key, 'state', 'QUEUED') == 1) then
    store(call, key)
  else
    meet(call, again)
  end
end
if #waiting > 0 then
  in_parts('ZADD', queue, waiting)
  redis.call('EXPIRE', queue, UNFINISHED_TTL)
end
if #claimed > 0 then note_claims(queue, claimed) end
-- While somebody has a place nothing waits.
local still_wait = (#claimed == 0 or #waiting > 0) and queued(queue) or 0
note_load(queue, still_wait + running(queue), arg.window, at)
local granted, woken, expires = {}, {}, 0
if again then granted, woken, expires = held(noted) end
if still_wait > 0 and #granted + #woken == 0 then granted, woken, expires = reserve(arg, at) end
if #woken > 0 then note_sent(woken, expires) end
return {granted, woken, still_wait}
