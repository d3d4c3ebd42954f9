-- release: gives back a reservation, or a machine that will not come.
-- Needs: lib_clock lib_bill
-- KEYS: 1 starts   ARGV: 1 prefix  2 lane  3 reservation or machine
mend('ZREM', KEYS[1], ARGV[3])
close_bill(ARGV[2], ARGV[3], now_ms())
