"""submit to result of a lone call, warm: against a bare Redis stream ping-pong between two processes.

The ping-pong is XADD and XREAD BLOCK on either side, with redis-py: what two processes need at least to exchange two
messages through Redis. ProcessPoolExecutor (no Redis, no other machine) and RQ are there for information.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

import redis
import rq

from benchmarks._measure import noop, other_database, rq_workers, show, warm_executor
from flyexecutor import LocalFly

CALLS = 100  # in each round
ROUNDS = 5


def percentiles(calls: Mapping[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """p50 and p90 of each in ms, over all rounds; they take turns. The first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for n in range(ROUNDS + 1):
        for name, call in calls.items():
            for _ in range(CALLS):
                began = time.perf_counter()
                call()
                if n:
                    taken[name].append((time.perf_counter() - began) * 1000)
    deciles = {name: statistics.quantiles(times, n=10) for name, times in taken.items()}
    return {name: (found[4], found[8]) for name, found in deciles.items()}


def over(executor: Executor) -> float:
    """What a call of a second takes beyond it, in ms: while it runs its worker listens for orders."""
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        executor.submit(time.sleep, 1.0).result()
        taken.append((time.perf_counter() - began - 1.0) * 1000)
    return statistics.median(taken)


def pong(url: str) -> None:
    """The far end: answers each entry of one stream in another."""
    with redis.Redis.from_url(url) as connection:
        last = b"0"
        while True:
            ((_, [(last, _)]),) = connection.xread({"ping": last}, block=0)
            connection.xadd("pong", {"x": "y"})


@contextmanager
def ping_pong(url: str) -> Iterator[Callable[[], None]]:
    """A stream there, a stream back, nothing else."""
    process = multiprocessing.get_context("spawn").Process(target=pong, args=(url,), daemon=True)
    process.start()
    with redis.Redis.from_url(url) as connection:
        last = b"0"

        def call() -> None:
            nonlocal last
            connection.xadd("ping", {"x": "y"})
            ((_, [(last, _)]),) = connection.xread({"pong": last}, block=0)

        yield call
    process.kill()
    process.join()


def main() -> None:
    """Measure and print."""
    with LocalFly(rate_limits=False) as local:
        url = other_database(local)
        with (
            redis.Redis.from_url(url) as connection,
            warm_executor(local, 1) as ours,
            ping_pong(url) as floor,
            ProcessPoolExecutor(1) as pool,
            rq_workers(url, 1),
        ):
            queue = rq.Queue(connection=connection)
            found = percentiles(
                {
                    "flyexecutor": lambda: ours.submit(noop).result(),
                    "stream ping-pong": floor,
                    "ProcessPoolExecutor(1)": lambda: pool.submit(noop).result(),
                    "RQ, 1 SimpleWorker": lambda: queue.enqueue(noop).latest_result(timeout=60),
                }
            )
            longer = {
                name: over(executor) for name, executor in (("flyexecutor", ours), ("ProcessPoolExecutor(1)", pool))
            }
    for n, (name, goal) in enumerate((("p50", "<= 2.0 of the ping-pong"), ("p90", "none, for information"))):
        show(f"submit to result, warm, {name}", {who: times[n] for who, times in found.items()}, "ms", goal)
    show("what a call of 1 s takes over its second", longer, "ms", "a few ms: its worker hears of its end at once")


if __name__ == "__main__":
    main()
