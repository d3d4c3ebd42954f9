-- note_run: remembers a run of a schedule.
-- Needs: lib_sound
-- KEYS: 1 its runs (list)   ARGV: 1 call  2 how many are kept  3 for how long (s)
mend('LPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], 0, ARGV[2] - 1)
redis.call('EXPIRE', KEYS[1], ARGV[3])
