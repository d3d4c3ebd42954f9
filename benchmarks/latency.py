"""submit to result of a lone call, warm: against a bare Redis stream ping-pong between two processes."""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import redis

from benchmarks._measure import noop, show, warm_executor
from flyexecutor import LocalFly

CALLS = 500


def percentiles(call: Callable[[], object]) -> tuple[float, float]:
    """p50 and p90 in ms."""
    taken = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1000)
    deciles = statistics.quantiles(taken, n=10)
    return deciles[4], deciles[8]


def pong(url: str) -> None:
    """The far end: answers each entry of one stream in another."""
    with redis.Redis.from_url(url) as connection:
        last = b"0"
        while True:
            ((_, [(last, _)]),) = connection.xread({"ping": last}, block=0)
            connection.xadd("pong", {"x": "y"})


def ping_pong(url: str) -> tuple[float, float]:
    """A stream there, a stream back, nothing else."""
    process = multiprocessing.get_context("spawn").Process(target=pong, args=(url,), daemon=True)
    process.start()
    with redis.Redis.from_url(url) as connection:
        last = b"0"

        def call() -> None:
            nonlocal last
            connection.xadd("ping", {"x": "y"})
            ((_, [(last, _)]),) = connection.xread({"pong": last}, block=0)

        call()
        found = percentiles(call)
    process.kill()
    process.join()
    return found


def main() -> None:
    """Measure and print."""
    with LocalFly(rate_limits=False) as local:
        with warm_executor(local, 1) as ours:
            ours.submit(noop).result()
            our = percentiles(lambda: ours.submit(noop).result())
        with ProcessPoolExecutor(1) as pool:
            pool.submit(noop).result()
            peer = percentiles(lambda: pool.submit(noop).result())
        floor = ping_pong(local.redis_url[:-1] + "1")
    for n, name in enumerate(("p50", "p90")):
        rows = {"flyexecutor": our[n], "bare stream ping-pong": floor[n], "ProcessPoolExecutor(1)": peer[n]}
        show(f"submit to result, warm, {name}", rows, "ms", "p50 <= 1.5 of the ping-pong")


if __name__ == "__main__":
    main()
