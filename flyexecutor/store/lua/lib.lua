-- Put in front of every script: what several of them do. Scripts name keys that they have read from others, which
-- Redis Cluster does not promise to allow: it is not supported.
--   PREFIX:call:ID (hash)         state lane entry queued attempt losses retries keep ttl watch chunks call name machine
--                                 region started, and as needed: raised kill expires expired parts bigger pointers
--                                 progress logs; once it has ended: finished outcome_chunks outcome
--   PREFIX:chunk:NAME:N (string)  a payload too large for one request, told as chunks "NAME:how many". NAME of a call:
--                                 batch that brought it and place therein, of an outcome: ID.ATTEMPT, of an item:
--                                 ID.ATTEMPT.NUMBER, of what calls share: its id. So nobody writes over another's. It
--                                 is stored for minutes; the script that takes it has it kept for longer
--   PREFIX:uses:PART (string)     how many calls that have not ended name what they share
--   PREFIX:queue:LANE (stream)    one entry {id} for a call that is QUEUED or RUNNING; group "workers", consumer = machine
--   PREFIX:due:LANE (zset)        when something is to be done about a call (ms): "r ID" queue it again, "x ID" it expires
--   PREFIX:workers:LANE (hash)    machine -> time of its join (ms)
--   PREFIX:starts:LANE (zset)     reservation, or the machine that it became -> time at which it expires (ms)
--   PREFIX:load:LANE (hash)       at peak before window: the most calls that there were at a time, now and in the window
--                                 before (each `window` ms long)
--   PREFIX:awake:LANE (hash)      machine -> since when it is billed (ms): from its start until it leaves or is buried
--   PREFIX:meter:LANE (hash)      billed and useful (ms), calls, starts, sent (bytes): since the lane is known
--   PREFIX:creates (string)       when the app's next machine may be created (ms); see take_turn
--   PREFIX:lists (string)         the same for its next list of machines
--   PREFIX:machines:KEY (stream)  one entry {began body}: the list of machines that began last, for who has that key
--   PREFIX:lock:NAME (string)     who does something for all; for lists: who fetches the next
--   PREFIX:suspends (string)      when the app's next machine may suspend itself (ms)
--   PREFIX:runs:SCHEDULE (list)   the calls that a schedule has made, the newest first
--   PREFIX:scheduled:NAME (string)    the machine of a schedule, by the name that it has at Fly
--   PREFIX:lock:NAME (string)     who does something for all others, or before them
--   PREFIX:lanes (zset)           lane -> when it last had a call (ms)
--   PREFIX:orders:MACHINE (stream)    one entry {id} for each call that its worker shall kill
--   PREFIX:same:ID (string)       a call with a key that is there under another id: a pointer to it (trust.py), for who asks
--                                 by the id that the key gives now
--   PREFIX:sent:CLIENT (string)   the last batch that it has stored
--   PREFIX:outcomes:CLIENT (stream)   {head body logs} for each outcome, {report body} for what is told before the end
-- Heads are words with a space in between, "-" for an empty one; chunks "=" stands for a body that the record has.
local GROUP = 'workers'
local UNUSED_TTL = 300  -- seconds that what calls share is kept for further ones
local STREAM_BYTES = 16384  -- a larger body that the record keeps is not told again to each who watches
local WATCHERS = 16  -- who hear of a call at once; who came before them asks by itself (watcher.py: READ_FOR)

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

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
  redis.call('EXPIRE', queue, 7 * DAY)
end

local function length(queue)
  return mend('XLEN', queue)
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

-- When a token bucket is full (ms). One that would have its asker wait for longer than `most` is not of this clock, which
-- was set back meanwhile, or is nobody's of ours.
local function full_at(key, at, most)
  local full = count(mend('GET', key))
  return full <= at + most and math.max(at, full) or at
end

-- A token bucket: the next free moment for what Fly limits to one request each `every` milliseconds. Answers the
-- milliseconds to wait; the moment is the asker's then.
local function take_turn(key, at, every, burst, most)
  local full = full_at(key, at, most) + every
  redis.call('SET', key, full, 'PX', math.ceil(full - at) + 1000)
  return math.max(0, math.ceil(full - at - every * burst))
end

local function running(queue)
  return redis.pcall('XPENDING', queue, GROUP)[1] or 0
end

local function word(value)
  if not value or #value > 100 or not string.find(value, '^%S+$') then return '-' end
  return value
end

-- The last part of "PREFIX:queue:LANE".
local function lane_of(prefix, queue)
  return string.sub(queue, #prefix + 8)
end

-- Remembers the most calls that there were at a time: what the worker that has nothing to do needs to know.
local function note_load(prefix, lane, load, window, at)
  local key = prefix .. ':load:' .. lane
  local is = mend('HMGET', key, 'at', 'peak')
  local age, peak = at - count(is[1]), count(is[2])
  if age >= 2 * window or age < 0 then
    redis.call('HSET', key, 'at', at, 'peak', load, 'before', 0, 'window', window)
  elseif age >= window then
    redis.call('HSET', key, 'at', at, 'peak', load, 'before', peak, 'window', window)
  elseif load > peak then
    redis.call('HSET', key, 'peak', load)
  end
  redis.call('EXPIRE', key, DAY)
end

-- Whether fewer workers would have been enough of late. Redis wakes the reader that has waited longest, so a trickle of
-- calls keeps every worker from being idle for long: this tells that one is enough.
local function spare(prefix, queue, lane, concurrency, at)
  local is = mend('HMGET', prefix .. ':load:' .. lane, 'at', 'peak', 'before', 'window')
  local load, age, window = length(queue), at - count(is[1]), count(is[4])
  if age < 2 * window then load = math.max(load, count(is[2])) end
  if age < window then load = math.max(load, count(is[3])) end
  return mend('HLEN', prefix .. ':workers:' .. lane) > math.ceil(load / concurrency)
end

-- A machine is billed no longer, or for another reason than before.
local function close_bill(prefix, lane, machine, at)
  local since = mend('HGET', prefix .. ':awake:' .. lane, machine)
  if not since then return end
  redis.call('HDEL', prefix .. ':awake:' .. lane, machine)
  mend('HINCRBY', prefix .. ':meter:' .. lane, 'billed', math.max(0, at - whole(since, LARGEST, at)))
end

-- A machine is billed from now on.
local function open_bill(prefix, lane, machine, at)
  close_bill(prefix, lane, machine, at)
  local awake, meter = prefix .. ':awake:' .. lane, prefix .. ':meter:' .. lane
  redis.call('HSET', awake, machine, at)
  mend('HINCRBY', meter, 'starts', 1)
  redis.call('EXPIRE', awake, 7 * DAY)
  redis.call('EXPIRE', meter, 30 * DAY)
end

-- How many machines shall be had, less those that are there or on their way; reserves the difference.
-- Answers the names of the new reservations.
local function reserve(prefix, lane, queue, workers, starts, name, max_workers, concurrency, hold_ms, at)
  local over = mend('ZRANGEBYSCORE', starts, '-inf', at, 'WITHSCORES')
  for n = 1, #over, 2 do
    redis.call('ZREM', starts, over[n])
    if mend('HEXISTS', workers, over[n]) == 0 then close_bill(prefix, lane, over[n], count(over[n + 1])) end
  end
  redis.call('ZREMRANGEBYSCORE', starts, at + DAY * 1000, '+inf')  -- nobody boots for so long
  local wanted = math.min(math.ceil(length(queue) / concurrency), max_workers)
  local missing = wanted - mend('HLEN', workers) - redis.call('ZCARD', starts)
  local granted = {}
  for n = 1, missing do
    granted[n] = name .. ':' .. n
    redis.call('ZADD', starts, at + hold_ms, granted[n])
  end
  if missing > 0 then redis.call('EXPIRE', starts, DAY) end
  return granted
end

-- The keys of a large payload; none if it is not told as one.
local function chunk_keys(prefix, chunks)
  local keys = {}
  local name, number = pieces_of(chunks)
  for n = 1, number or 0 do keys[n] = prefix .. ':chunk:' .. name .. ':' .. n end
  return keys
end

local function drop_chunks(prefix, chunks)
  for _, key in ipairs(chunk_keys(prefix, chunks)) do redis.call('UNLINK', key) end
end

local function keep_chunks(prefix, chunks, ttl)
  for _, key in ipairs(chunk_keys(prefix, chunks)) do redis.call('EXPIRE', key, ttl) end
end

local function all_there(prefix, chunks)
  local keys = chunk_keys(prefix, chunks)
  return #keys == 0 or redis.call('EXISTS', unpack(keys)) == #keys
end

-- What several calls share, told as "NAME:how many" with a space in between: one more call needs it, or one less. Whoever
-- stored it may die and leave it behind: so it goes by itself, some minutes after the last call that needed it.
local function use_parts(prefix, parts, ttl)
  for part in string.gmatch(parts, '%S+') do
    local uses = prefix .. ':uses:' .. (pieces_of(part) or '')
    if is_damage(redis.pcall('INCR', uses)) then redis.call('SET', uses, MOST_ATTEMPTS) end  -- too long kept harms nobody
    redis.call('EXPIRE', uses, ttl)
    keep_chunks(prefix, part, ttl)
  end
end

local function release_parts(prefix, parts)
  -- Word by word: a pattern that looks for ":" anywhere takes seconds for some thousand characters without one.
  local left = MOST_PIECES
  for part in string.gmatch(string.sub(parts, 1, MOST_PARTS), '%S+') do
    local name, number = pieces_of(part)
    left = left - (number or MOST_PIECES)
    if left < 0 then return end
    local key = prefix .. ':uses:' .. (name or '')
    local uses = redis.pcall('DECR', key)
    if type(uses) == 'number' and uses < 1 then
      redis.call('UNLINK', key)
      keep_chunks(prefix, part, UNUSED_TTL)
    end
  end
end

-- What settle needs to know of a call.
local RECORD = {'entry', 'watch', 'ttl', 'keep', 'lane', 'chunks', 'queued', 'started', 'expires', 'parts'}
local function read_record(prefix, id)
  return fields_of(prefix, id, unpack(RECORD))
end

local function tell(prefix, watch, ttl, ...)
  for client in string.gmatch(string.sub(watch or '', 1, MOST_WATCH), '%S+') do
    local stream = prefix .. ':outcomes:' .. client
    mend('XADD', stream, '*', ...)
    -- There may be something in it that is kept for longer: ttl is that of the call, not of the client.
    if redis.call('TTL', stream) < ttl then redis.call('EXPIRE', stream, ttl) end
  end
end

-- Tells how a call has ended, whose record keeps its body or does not ('1', '0').
local function tell_outcome(prefix, watch, ttl, keep, words, chunks, times, body, logs)
  if keep == '1' and #body > STREAM_BYTES then chunks, body = '=', '' end
  local head = table.concat({words, chunks, times}, ' ')
  if logs == '' then
    tell(prefix, watch, ttl, 'head', head, 'body', body)
  else
    tell(prefix, watch, ttl, 'head', head, 'body', body, 'logs', logs)
  end
end

-- A further client wants to hear of a call. If its record is not kept all must be told, and none can find out.
local function add_watcher(key, watch, client, keep)
  local watchers = {}
  for one in string.gmatch(string.sub(watch or '', 1, MOST_WATCH - #client - 1), '%S+') do
    if one == client then return end
    watchers[#watchers + 1] = one
  end
  if keep == '1' and #watchers >= WATCHERS then table.remove(watchers, 2) end  -- not who submitted it
  watchers[#watchers + 1] = client
  redis.call('HSET', key, 'watch', table.concat(watchers, ' '))
end

-- Ends a call: its record keeps the outcome for ttl seconds, or goes at once; what it was given goes in any case.
local function settle(prefix, id, record, state, attempt, machine, region, chunks, body, logs)
  local key = prefix .. ':call:' .. id
  local entry, watch, ttl, keep, lane, call_chunks, queued, started, expires, parts = unpack(record, 1, #RECORD)
  lane, ttl = lane or '', ttl_of(ttl)
  machine, region = machine or '', region or ''
  local queue, at = prefix .. ':queue:' .. lane, now_ms()
  if entry ~= '' then
    drop_entry(queue, entry or '')
  else
    mend('ZREM', prefix .. ':due:' .. lane, 'r ' .. id)
  end
  if expires then mend('ZREM', prefix .. ':due:' .. lane, 'x ' .. id) end
  drop_chunks(prefix, call_chunks)
  keep_chunks(prefix, chunks, ttl)
  if parts then release_parts(prefix, parts) end
  if keep == '1' then
    redis.call('HSET', key, 'state', state, 'attempt', attempt, 'machine', machine, 'region', region,
      'outcome_chunks', chunks, 'outcome', body, 'finished', at, 'logs', logs)
    redis.call('HDEL', key, 'call', 'expired')
    redis.call('EXPIRE', key, ttl)
  else
    redis.call('UNLINK', key)
  end
  if started then
    local meter = prefix .. ':meter:' .. lane
    mend('HINCRBY', meter, 'useful', math.max(0, at - whole(started, LARGEST, at)))
    mend('HINCRBY', meter, 'calls', 1)
    redis.call('EXPIRE', meter, 30 * DAY)
  end
  local words = table.concat({id, state, attempt, word(machine), word(region)}, ' ')
  local times = table.concat({count(queued), count(started), at}, ' ')
  tell_outcome(prefix, watch, ttl, keep, words, chunks, times, body, state == 'SUCCEEDED' and '' or logs)
end

-- QUEUED | RUNNING -> FAILED: nobody can tell how the call is to be run. The client knows the words (watcher.py).
local function fail_damaged(prefix, queue, entry, id, field, value)
  drop_entry(queue, entry)  -- the record may name another
  local told = 'damaged: its ' .. field .. ' is ' .. shown(value)
  settle(prefix, id, read_record(prefix, id), 'FAILED', 0, '', '', '-', told, '')
end

-- RUNNING -> QUEUED, at the end of the queue; or KILLED, if somebody asked for that.
-- Its attempt is spent (the next claim has a higher number).
local function queue_again(prefix, queue, entry, id)
  local is = fields_of(prefix, id, 'state', 'kill', 'attempt', 'machine', 'region')
  drop_entry(queue, entry)
  if is[1] ~= 'QUEUED' and is[1] ~= 'RUNNING' then return end
  if is[2] then
    local attempt = whole(is[3], MOST_ATTEMPTS, 0)
    settle(prefix, id, read_record(prefix, id), 'KILLED', attempt, is[4], is[5], '-', 'killed before it ran again', '')
    return
  end
  redis.call('HSET', prefix .. ':call:' .. id, 'state', 'QUEUED', 'entry', put_into(queue, id))
end

-- The calls that this machine has claimed and not finished: {entry, id} of each.
local function claimed_by(queue, machine)
  local found = {}
  for _, pending in ipairs(redis.call('XPENDING', queue, GROUP, '-', '+', 10000, machine)) do
    local read = redis.call('XRANGE', queue, pending[1], pending[1])
    if #read == 0 or not names_call(read[1][2]) then
      drop_entry(queue, pending[1])
    else
      found[#found + 1] = {pending[1], read[1][2][2]}
    end
  end
  return found
end

-- Out of memory: RUNNING -> QUEUED in the lane of the next larger machine, or LOST when there is none.
local function outgrow(prefix, queue, entry, id, machine, region, reason, logs)
  local is = fields_of(prefix, id, 'bigger', 'watch', 'ttl', 'attempt')
  local lane, rest = string.match(is[1] or '', '^(%S+) ?(.*)$')
  local attempt = whole(is[4], MOST_ATTEMPTS, 0)
  if not lane then
    settle(prefix, id, read_record(prefix, id), 'LOST', attempt, machine, region, '-', 'oom: ' .. reason, logs)
    return
  end
  drop_entry(queue, entry)
  local larger = prefix .. ':queue:' .. lane
  need_queue(larger)
  redis.call('HSET', prefix .. ':call:' .. id, 'state', 'QUEUED', 'lane', lane, 'bigger', rest,
    'entry', put_into(larger, id))
  tell(prefix, is[2], ttl_of(is[3]), 'report', id .. ' ' .. attempt .. ' moved 0 -', 'body', lane)
end

-- A machine died, or came back without its memory: its calls run again, or are LOST when their attempts are spent.
local function lose_calls(prefix, queue, machine, reason, oom)
  local lost = 0
  for _, pending in ipairs(claimed_by(queue, machine)) do
    local entry, id = unpack(pending)
    local state, losses, retries, attempt, region, kill = unpack(
      fields_of(prefix, id, 'state', 'losses', 'retries', 'attempt', 'region', 'kill'), 1, 6)
    local lost_before, may_be_lost = whole(losses, MOST_ATTEMPTS), whole(retries, LARGEST)
    if state ~= 'RUNNING' or kill then
      queue_again(prefix, queue, entry, id)
    elseif not whole(attempt, MOST_ATTEMPTS) then
      fail_damaged(prefix, queue, entry, id, 'attempt', attempt)
    elseif oom then
      outgrow(prefix, queue, entry, id, machine, region or '', reason, '')
    elseif not lost_before then
      fail_damaged(prefix, queue, entry, id, 'losses', losses)
    elseif not may_be_lost then
      fail_damaged(prefix, queue, entry, id, 'retries', retries)
    elseif lost_before < may_be_lost then
      redis.call('HSET', prefix .. ':call:' .. id, 'losses', lost_before + 1)
      queue_again(prefix, queue, entry, id)
    else
      settle(prefix, id, read_record(prefix, id), 'LOST', attempt, machine, region or '', '-', reason, '')
    end
    lost = lost + 1
  end
  return lost
end

-- A host that vanished may have left a blocking read in Redis, which still takes a call after its worker was buried: that
-- call has a consumer that is no worker, and nobody would bury it again.
local function take_from_the_buried(prefix, queue, workers)
  for _, consumer in ipairs(redis.call('XPENDING', queue, GROUP)[4] or {}) do
    if mend('HEXISTS', workers, consumer[1]) == 0 then
      lose_calls(prefix, queue, consumer[1], 'its machine is gone', false)
      redis.call('XGROUP', 'DELCONSUMER', queue, GROUP, consumer[1])
    end
  end
end

-- QUEUED -> FAILED: no worker began it in time. The outcome for that was sealed when it was submitted.
local function expire(prefix, queue, entry, id)
  local body = fields_of(prefix, id, 'expired')[1]
  if not body then return fail_damaged(prefix, queue, entry, id, 'outcome if it expires', body) end
  settle(prefix, id, read_record(prefix, id), 'FAILED', 0, '', '', '-', body, '')
end

-- Does what is due: calls whose retry has waited long enough join the queue, those that waited too long end.
-- Answers the milliseconds until something is due again, -1 if nothing will be.
local function tend_due(prefix, queue)
  local due, at = prefix .. ':due:' .. lane_of(prefix, queue), now_ms()
  for _, member in ipairs(mend('ZRANGEBYSCORE', due, '-inf', at, 'LIMIT', 0, 1000)) do
    redis.call('ZREM', due, member)
    local what, id = string.match(member, '^([rx]) (.*)$')
    local is = fields_of(prefix, id or '', 'state', 'entry')
    if is[1] == 'QUEUED' then
      if what == 'x' then
        expire(prefix, queue, is[2] or '', id)
      elseif is[2] == '' then
        redis.call('HSET', prefix .. ':call:' .. id, 'entry', put_into(queue, id))
      end
    end
  end
  local next_one = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
  if not next_one[2] then return -1 end
  return math.min(DAY * 1000, math.max(0, next_one[2] - at))
end

-- QUEUED -> RUNNING for entries that were delivered to this machine; others of them have been cancelled meanwhile.
-- Answers {head body name} of each; head: "id attempt chunks losses raised parts...".
local function claim_entries(prefix, queue, entries, machine, region)
  local claimed = {}
  local at = now_ms()
  for _, delivered in ipairs(entries) do
    local entry, id = delivered[1], delivered[2][2]
    local is = {}
    if names_call(delivered[2]) then
      is = fields_of(prefix, id, 'state', 'attempt', 'chunks', 'call', 'losses', 'raised', 'parts', 'expires', 'name')
    end
    local field, value = what_is_damaged(is)
    if field then
      fail_damaged(prefix, queue, entry, id, field, value)
    elseif is[1] ~= 'QUEUED' then
      drop_entry(queue, entry)
    elseif is[8] and tonumber(is[8]) < at then
      expire(prefix, queue, entry, id)
    else
      local attempt = is[2] + 1
      redis.call('HSET', prefix .. ':call:' .. id, 'state', 'RUNNING', 'attempt', attempt, 'machine', machine, 'region', region,
        'started', at)
      if is[8] then
        redis.call('HDEL', prefix .. ':call:' .. id, 'expires', 'expired')
        mend('ZREM', prefix .. ':due:' .. lane_of(prefix, queue), 'x ' .. id)
      end
      local head = table.concat({id, attempt, is[3], tonumber(is[5] or 0), tonumber(is[6] or 0), is[7] or ''}, ' ')
      claimed[#claimed + 1] = {head, is[4], is[9]}
    end
  end
  return claimed
end

-- Claims up to `limit` calls that wait now; never blocks. Raises if the queue is none: its worker joins again, which
-- mends it.
local function claim_more(prefix, queue, limit, machine, region)
  if limit < 1 then return {} end
  local read = redis.call('XREADGROUP', 'GROUP', GROUP, machine, 'COUNT', limit, 'STREAMS', queue, '>')
  if not read then return {} end
  return claim_entries(prefix, queue, read[1][2], machine, region)
end
