-- pace: the next free moment for something that Fly limits per app, for all clients of the app together.
-- Needs: lib_clock
-- KEYS: 1 its pace (string)   ARGV: 1 milliseconds per request  2 burst
-- Answers the milliseconds to wait; the moment is the asker's then.
local MOST = 600000  -- ms: some hundred clients may each wait for the next of their creates
return take_turn(KEYS[1], now_ms(), tonumber(ARGV[1]), tonumber(ARGV[2]), MOST)
