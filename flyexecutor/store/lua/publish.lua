-- publish: a list of the app's machines was fetched, or could not be: who waits for it is woken in both cases.
-- Needs: lib_clock
-- KEYS: 1 the list (stream of one entry)  2 who fetches it (string)
-- ARGV: 1 asker  2 its begin (ms)  3 its body; empty: there is none  4 for how long it is kept (s)
if mend('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
local newest = mend('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local began = count(newest and newest[2][2])
-- One that took so long that somebody else was asked in its place is no news. One of the future is nobody's of ours.
if ARGV[3] ~= '' and began > tonumber(ARGV[2]) and began <= now_ms() then return end
redis.call('XADD', KEYS[1], 'MAXLEN', 1, '*', 'began', ARGV[2], 'body', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
