-- standing: how calls stand; changes nothing.
-- KEYS: calls (hashes)
-- Answers the state of each, empty if there is no such call.
local states = {}
for n, key in ipairs(KEYS) do states[n] = redis.call('HGET', key, 'state') or '' end
return states
