-- keep: what calls share is about to be needed again; changes no state.
-- KEYS: its parts (strings)   ARGV: 1 for how long at least (s)
-- Answers 1 if all of it is there, else 0.
for _, key in ipairs(KEYS) do
  if redis.call('TYPE', key).ok ~= 'string' then return 0 end
  if redis.call('TTL', key) < tonumber(ARGV[1]) then redis.call('EXPIRE', key, ARGV[1]) end
end
return 1
