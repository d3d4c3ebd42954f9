-- batch: how the calls of a batch stand; changes no state.
-- KEYS: 1 batch (list)   ARGV: 1 prefix
-- Answers {ids, states}; a state is empty if the call is no longer known.
local ids, states = mend('LRANGE', KEYS[1], 0, -1), {}
for n, id in ipairs(ids) do states[n] = fields_of(ARGV[1], id, 'state')[1] or '' end
return {ids, states}
