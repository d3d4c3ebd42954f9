-- enqueue: (no such call) -> QUEUED, for a batch; reserves the machines that are missing.
-- KEYS: 1 queue  2 workers  3 starts
-- ARGV: 1 prefix  2 lane  3 max_workers  4 concurrency  5 life of a reservation (ms)  6 reservation name  7 client
--       8 result_ttl (s)  9 ttl of a call that has not ended (s)  10 window of the lane's load (ms), then per call: id
--       retries keep chunks body name n and n further names and values of its record
-- Answers the names of the reservations that this client must turn into machines; an error, and nothing has changed, if
-- a large payload is no longer there.
-- A client sends one batch at a time, and the same again after a lost answer; that must not run what has ended already
-- and left no record, and answers the reservations that were granted the first time. A call with a key may be there from
-- another client: this one then hears of its outcome too. It may be there under the id that another key of the ring gives:
-- this one is then told which, before anything else of that call.
local queue, workers, starts = KEYS[1], KEYS[2], KEYS[3]
local prefix, lane, at, ttl = ARGV[1], ARGV[2], now_ms(), ARGV[9]
local sent = prefix .. ':sent:' .. ARGV[7]
need_queue(queue)
local n, there, pointers = 11, {}, {}
while n <= #ARGV do
  there[ARGV[n + 3]] = 0
  for m = n + 7, n + 6 + ARGV[n + 6], 2 do
    if ARGV[m] == 'pointers' then pointers[ARGV[n]] = ARGV[m + 1] end
    if ARGV[m] == 'parts' then
      for part in string.gmatch(ARGV[m + 1], '%S+') do there[part] = 0 end
    end
  end
  n = n + 7 + ARGV[n + 6]
end
for chunks in pairs(there) do
  if not all_there(prefix, chunks) then return redis.error_reply('EXPIRED what a call needs, before the call came') end
end
n = 11
local again = mend('GET', sent) == ARGV[6]
redis.call('SET', sent, ARGV[6], 'EX', 300)
while n <= #ARGV do
  local id, retries, keep, chunks, body, name, further = unpack(ARGV, n, n + 6)
  local key = prefix .. ':call:' .. id
  if pointers[id] and not again and redis.call('EXISTS', key) == 0 then
    local same = prefix .. ':same:' .. id
    redis.call('DEL', same)
    for pointer in string.gmatch(pointers[id], '%S+') do
      local other = string.sub(pointer, 1, #id)
      if redis.call('EXISTS', prefix .. ':call:' .. other) == 1 then
        redis.call('SET', same, pointer, 'EX', ttl + ARGV[8])
        tell(prefix, ARGV[7], tonumber(ARGV[8]), 'report', id .. ' 0 same 0 -', 'body', pointer)
        id, key = other, prefix .. ':call:' .. other
        break
      end
    end
  end
  if not again and mend('HSETNX', key, 'state', 'QUEUED') == 1 then
    redis.call('HSET', key, 'lane', lane, 'entry', put_into(queue, id), 'queued', at,
      'attempt', 0, 'losses', 0, 'retries', retries, 'keep', keep, 'ttl', ARGV[8], 'watch', ARGV[7],
      'chunks', chunks, 'call', body, 'name', name)
    redis.call('EXPIRE', key, ttl)
    keep_chunks(prefix, chunks, ttl)
    if further ~= '0' then
      redis.call('HSET', key, unpack(ARGV, n + 7, n + 6 + further))
      local is = redis.call('HMGET', key, 'expires', 'parts')
      if is[1] then
        local due = prefix .. ':due:' .. lane
        redis.call('HSET', key, 'expires', at + is[1])
        mend('ZADD', due, at + is[1], 'x ' .. id)
        redis.call('EXPIRE', due, ttl)
      end
      if is[2] then use_parts(prefix, is[2], ttl) end
    end
  else
    local is = redis.call('HMGET', key, 'state', 'watch', 'attempt', 'machine', 'region', 'outcome_chunks', 'queued',
      'started', 'finished', 'outcome', 'chunks', 'progress')
    if is[9] or is[11] ~= chunks then drop_chunks(prefix, chunks) end
    if is[12] and not again then
      tell(prefix, ARGV[7], tonumber(ARGV[8]), 'report', table.concat({id, word(is[3]), 'progress', 0, '-'}, ' '), 'body', is[12])
    end
    if again then
      -- It has been told all there is.
    elseif is[9] then
      local words = table.concat({id, word(is[1]), word(is[3]), word(is[4]), word(is[5])}, ' ')
      local times = table.concat({count(is[7]), count(is[8]), count(is[9])}, ' ')
      tell_outcome(prefix, ARGV[7], tonumber(ARGV[8]), '1', words, word(is[6]), times, is[10] or '', '')
    else
      add_watcher(key, is[2], ARGV[7], '1')
    end
  end
  n = n + 7 + further
end
redis.call('EXPIRE', queue, ttl)
mend('ZADD', prefix .. ':lanes', at, lane)
redis.call('ZREMRANGEBYSCORE', prefix .. ':lanes', '-inf', at - 30 * DAY * 1000)
redis.call('EXPIRE', prefix .. ':lanes', 30 * DAY)
note_load(prefix, lane, length(queue), tonumber(ARGV[10]), at)
if again then
  local held = {}
  for _, name in ipairs(mend('ZRANGE', starts, 0, -1)) do
    if string.find(name, ARGV[6] .. ':', 1, true) == 1 then held[#held + 1] = name end
  end
  if #held > 0 then return held end
end
return reserve(prefix, lane, queue, workers, starts, ARGV[6], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), at)
