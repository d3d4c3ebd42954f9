-- lock: one does something for all, for a time.
-- KEYS: 1 who does (string)   ARGV: 1 asker  2 for how long (ms)
-- Answers 1 if the asker may. What has no end, or one that is too far away, is nobody's of ours.
local left = redis.call('PTTL', KEYS[1])
if left >= 0 and left <= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
