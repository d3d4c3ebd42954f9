-- batch: how the calls of a batch stand; changes no state.
-- KEYS: 1 batch (list)   ARGV: 1 prefix
-- Answers {ids, states}; a state is empty if the call is no longer known.
local ids, states = redis.call('LRANGE', KEYS[1], 0, -1), {}
for n, id in ipairs(ids) do states[n] = redis.call('HGET', ARGV[1] .. ':call:' .. id, 'state') or '' end
return {ids, states}
