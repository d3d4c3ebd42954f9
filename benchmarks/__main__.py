"""All benchmarks, one after the other: `make bench`."""

from benchmarks import commands, fan_out, fleet, growth, latency, payload, pending, throughput, wake, worker_start

for benchmark in (throughput, latency, wake, payload, pending, worker_start, commands, fleet, fan_out, growth):
    benchmark.main()
