-- put: stores a piece of a large payload; changes no state.
-- KEYS: 1 the piece (string)   ARGV: 1 its bytes  2 for how long at least (s)
-- It may be there and needed for longer: it is sent again when an answer was lost, by somebody who may die before the
-- script that takes it comes.
redis.call('SET', KEYS[1], ARGV[1], 'EX', math.max(redis.call('TTL', KEYS[1]), tonumber(ARGV[2])))
