-- due: what is to be done about a lane's calls now: those whose retry has waited long enough join the queue; those that
-- waited too long: QUEUED -> FAILED.
-- Needs: lib_due
-- KEYS: 1 queue   ARGV: 1 prefix
-- Answers the milliseconds until something is due again, -1 if nothing will be.
return tend_due(KEYS[1])
