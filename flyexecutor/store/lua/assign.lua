-- assign: a reservation becomes a machine, before that is started: two clients must not count on the same one.
-- Needs: lib_clock lib_bill
-- KEYS: 1 workers  2 starts   ARGV: 1 prefix, then:
local arg = {
  lane = ARGV[2],
  reservation = ARGV[3],
  machine = ARGV[4],
  life = ARGV[5],  -- for how long it is counted on (ms)
  reserved = ARGV[6],  -- it must be reserved still (0, 1)
}
-- Answers 1, or 0 if the machine is taken (on its way, or at work), or not reserved. It is billed from now on.
local workers, starts = unpack(KEYS)
if arg.reserved == '1' and not mend('ZSCORE', starts, arg.reservation) then return 0 end
if mend('HEXISTS', workers, arg.machine) == 1 or mend('ZSCORE', starts, arg.machine) then return 0 end
local at = now_ms()
redis.call('ZREM', starts, arg.reservation)
redis.call('ZADD', starts, at + arg.life, arg.machine)
redis.call('EXPIRE', starts, DAY)
open_bill(arg.lane, arg.machine, at)
return 1
