"""10,000 no-op calls, two warm workers: against ProcessPoolExecutor(2), loky, and huey and RQ on the same Redis.

Each number is from the first submit to the last result, with one submit per call; RQ enqueues its jobs as one pipeline.
"""

from concurrent.futures import Executor, ProcessPoolExecutor

import loky
import redis
import rq

from benchmarks._measure import huey_workers, medians, noop, other_database, rq_workers, show, warm_executor
from flyexecutor import LocalFly

CALLS = 10_000
HUEY_CALLS, RQ_CALLS = 2_000, 500  # what takes longer for each: as a rate
CHUNKED = "flyexecutor, map(chunksize=50)"


def submit_all(executor: Executor) -> None:
    """From the first submit to the last result."""
    for future in [executor.submit(noop) for _ in range(CALLS)]:
        future.result()


def enqueue_all(queue: rq.Queue) -> None:
    """The same, in RQ's words."""
    for job in queue.enqueue_many([rq.Queue.prepare_data(noop) for _ in range(RQ_CALLS)]):
        job.latest_result(timeout=60)


def enqueue_all_at_huey() -> None:
    """The same, in huey's words."""
    from benchmarks import _huey  # noqa: PLC0415 - once its address is known

    for result in [_huey.noop() for _ in range(HUEY_CALLS)]:
        result.get(blocking=True, backoff=1.0, max_delay=0.002)


def main() -> None:
    """Measure and print."""
    with LocalFly(rate_limits=False) as local:
        with warm_executor(local, 2) as ours, ProcessPoolExecutor(2) as pool, loky.ProcessPoolExecutor(2) as other_pool:
            taken = medians(
                {
                    "flyexecutor": lambda: submit_all(ours),
                    "ProcessPoolExecutor(2)": lambda: submit_all(pool),
                    "loky, 2 processes": lambda: submit_all(other_pool),
                    CHUNKED: lambda: list(ours.map(abs, range(CALLS), chunksize=50)),
                }
            )
        rates = {name: CALLS / seconds for name, seconds in taken.items()}
        url = other_database(local)
        with huey_workers(url, 2):
            rates["huey, 2 processes"] = HUEY_CALLS / medians({"huey": enqueue_all_at_huey}, 3)["huey"]
        with rq_workers(url, 2), redis.Redis.from_url(url) as connection:
            queue = rq.Queue(connection=connection)
            rates["RQ, 2 SimpleWorkers"] = RQ_CALLS / medians({"rq": lambda: enqueue_all(queue)}, 3)["rq"]
    chunked = {CHUNKED: rates.pop(CHUNKED)}
    show(f"{CALLS:,} no-op calls, 2 workers", rates, "calls/s", ">= 1.5 of ProcessPoolExecutor, >= 5 of huey", chunked)


if __name__ == "__main__":
    main()
