-- What clients are told of calls: entries of their streams. Their heads are made here, and read in records.py.
-- Needs: lib_call
local ENTRY_BYTES, ENTRY_FIELDS = 65536, 600  -- of outcomes that are told together
local STREAM_BYTES = 16384  -- a larger body that the record keeps is not told again to each who watches
local WATCHERS = 16  -- who hear of a call at once; who came before them asks by itself (watcher.py: READ_FOR)
local MOST_WATCH = 65536  -- bytes of the words of a record that name them
local MOST_WORD = 100  -- bytes

local function word(value)
  local text = tostring(value or '-')
  if #text > MOST_WORD or not string.find(text, '^%S+$') then return '-' end
  return text
end

local function watchers(watch)
  return string.gmatch(string.sub(watch or '', 1, MOST_WATCH), '%S+')
end

local lasts = {}  -- for how long the streams live that this script has looked at

local function tell_one(client, ttl, fields)
  local stream = PREFIX .. ':outcomes:' .. client
  mend('XADD', stream, '*', unpack(fields))
  -- There may be something in it that is kept for longer: ttl is that of the call, not of the client.
  lasts[stream] = lasts[stream] or redis.call('TTL', stream)
  if lasts[stream] < ttl then
    redis.call('EXPIRE', stream, ttl)
    lasts[stream] = ttl
  end
end

local function tell(watch, ttl, fields)
  for client in watchers(watch) do tell_one(client, ttl, fields) end
end

-- What has gathered for a client becomes one entry.
local function tell_rest(client, told)
  tell_one(client, told[client].ttl, told[client].fields)
  told[client] = nil
end

-- The same, once there is enough for an entry.
local function gather(watch, ttl, fields, told)
  for client in watchers(watch) do
    local gathered = told[client] or {ttl = 0, size = 0, fields = {}}
    told[client], gathered.ttl = gathered, math.max(gathered.ttl, ttl)
    for _, field in ipairs(fields) do
      gathered.fields[#gathered.fields + 1], gathered.size = field, gathered.size + #field
    end
    if gathered.size >= ENTRY_BYTES or #gathered.fields >= ENTRY_FIELDS then tell_rest(client, told) end
  end
end

-- What is told before the end: a report has id attempt kind number pieces body.
local function tell_report(watch, ttl, report)
  local head = {report.id, word(report.attempt), report.kind, report.number or 0, report.pieces or '-'}
  tell(watch, ttl, {'report', table.concat(head, ' '), 'body', report.body})
end

-- How a call has ended, or stands: by the names of its record. pieces: see lib_keys.lua; IN_RECORD stands for a body that
-- the record has.
local function outcome_head(call, pieces)
  return table.concat({call.id, word(call.state), word(call.attempt), word(call.machine), word(call.region), word(pieces),
    count(call.queued), count(call.started), count(call.finished)}, ' ')
end

-- Tells how a call has ended, whose record keeps its body or does not ('1', '0'). told: what gathers for clients, of several
-- calls (settle_together); an entry is then head body, or head body logs, again and again.
local function tell_outcome(watch, ttl, keep, ended, told)
  local pieces, body = ended.outcome_pieces, ended.outcome or ''
  if keep == '1' and #body > STREAM_BYTES then pieces, body = IN_RECORD, '' end
  local fields = {'head', outcome_head(ended, pieces), 'body', body}
  if ended.logs and ended.logs ~= '' and ended.state ~= 'SUCCEEDED' then
    fields[5], fields[6] = 'logs', ended.logs
  end
  -- A body that the reader fetches has an entry of its own: over a bad link it takes one at a time.
  if told and pieces ~= IN_RECORD then gather(watch, ttl, fields, told) else tell(watch, ttl, fields) end
end

-- A further client wants to hear of a call. If its record is not kept all must be told, and none can find out.
local function add_watcher(call, client)
  local clients = {}
  for other in string.gmatch(string.sub(call.watch or '', 1, MOST_WATCH - #client - 1), '%S+') do
    if other == client then return end
    clients[#clients + 1] = other
  end
  if call.keep == '1' and #clients >= WATCHERS then table.remove(clients, 2) end  -- not who submitted it
  clients[#clients + 1] = client
  redis.call('HSET', PREFIX .. ':call:' .. call.id, 'watch', table.concat(clients, ' '))
end
