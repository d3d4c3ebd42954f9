-- seek: the newest list of the app's machines, or who is to fetch it: one client at a time, when Fly's pace allows.
-- KEYS: 1 the list (stream of one entry)  2 who fetches it (string)  3 the pace of lists (string)
-- ARGV: 1 the moment at or after which it must have begun (ms; 0: now)  2 asker  3 what a fetch may take (ms)
--       4 milliseconds per list  5 burst  6 Fly has refused the asker's last: nobody asks before so many milliseconds
-- Answers {that moment, found, its begin, its body}, {that moment, fetch, when its begin will be, milliseconds until then},
-- or {that moment, wait, the entry that there is, milliseconds until somebody else may fetch}.
local MOST = 60000  -- ms that one may have to wait: what says more was told by a clock that was set back
local at, after = now_ms(), tonumber(ARGV[1])
if after == 0 then after = at end
local newest, last = mend('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1], '0-0'
if newest then
  last = newest[1]
  local began = count(newest[2][2])
  -- One of the future is nobody's of ours.
  if began >= after and began <= at and (newest[2][4] or '') ~= '' then return {after, 'found', began, newest[2][4]} end
end
local every, burst, pause = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if pause > 0 then
  local full = math.max(full_at(KEYS[3], at, MOST), at + every * (burst - 1) + pause)
  redis.call('SET', KEYS[3], full, 'PX', math.ceil(full - at) + 1000)
end
local left = redis.call('PTTL', KEYS[2])
if left > 0 and left <= MOST + ARGV[3] then return {after, 'wait', last, left} end
local wait = take_turn(KEYS[3], at, every, burst, MOST)
redis.call('SET', KEYS[2], ARGV[2], 'PX', wait + ARGV[3])
return {after, 'fetch', at + wait, wait}
