-- seek: the newest list of the app's machines, or who is to fetch it: one client at a time, when Fly's pace allows.
-- Needs: lib_clock
-- KEYS: 1 the list (stream of one entry)  2 who fetches it (string)  3 the pace of lists (string)   ARGV:
local arg = {
  after = tonumber(ARGV[1]),  -- the moment at or after which it must have begun (ms; 0: now)
  asker = ARGV[2],
  fetch = tonumber(ARGV[3]),  -- what a fetch may take (ms)
  every = tonumber(ARGV[4]),  -- ms per list
  burst = tonumber(ARGV[5]),
  pause = tonumber(ARGV[6]),  -- Fly has refused the asker's last: nobody asks before so many milliseconds
}
-- Answers {that moment, found, its begin, its body}, {that moment, fetch, when its begin will be, milliseconds until then},
-- or {that moment, wait, the entry that there is, milliseconds until somebody else may fetch}.
local MOST = 60000  -- ms that one may have to wait: what says more was told by a clock that was set back
local list, fetcher, pace = unpack(KEYS)
local at = now_ms()
local after = arg.after == 0 and at or arg.after
local newest, last = mend('XREVRANGE', list, '+', '-', 'COUNT', 1)[1], '0-0'
if newest then
  last = newest[1]
  local began, body = count(newest[2][2]), newest[2][4] or ''
  -- One of the future is nobody's of ours.
  if began >= after and began <= at and body ~= '' then return {after, 'found', began, body} end
end
if arg.pause > 0 then
  local full = math.max(full_at(pace, at, MOST), at + arg.every * (arg.burst - 1) + arg.pause)
  redis.call('SET', pace, full, 'PX', math.ceil(full - at) + 1000)
end
local left = redis.call('PTTL', fetcher)
if left > 0 and left <= MOST + arg.fetch then return {after, 'wait', last, left} end
local wait = take_turn(pace, at, arg.every, arg.burst, MOST)
redis.call('SET', fetcher, arg.asker, 'PX', wait + arg.fetch)
return {after, 'fetch', at + wait, wait}
