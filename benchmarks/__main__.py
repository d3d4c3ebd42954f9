"""All benchmarks, one after the other: `make bench`."""

from benchmarks import commands, latency, payload, throughput, worker_start

for benchmark in (throughput, latency, payload, worker_start, commands):
    benchmark.main()
