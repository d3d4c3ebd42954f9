"""5,000 calls that do nothing, two warm workers: against ProcessPoolExecutor(2), and two RQ workers on the same Redis.

Each number is from the first submit to the last result, with one submit per call; RQ enqueues its jobs as one pipeline.
"""

from concurrent.futures import ProcessPoolExecutor

import redis
import rq

from benchmarks._measure import medians, noop, other_database, rq_workers, show, warm_executor
from flyexecutor import FlyMachineExecutor, LocalFly

CALLS = 5_000
RQ_CALLS = 500  # it takes milliseconds for each: as a rate
CHUNKED = "flyexecutor, map(chunksize=50)"


def submit_all(executor: FlyMachineExecutor | ProcessPoolExecutor) -> None:
    """From the first submit to the last result."""
    for future in [executor.submit(noop) for _ in range(CALLS)]:
        future.result()


def enqueue_all(queue: rq.Queue) -> None:
    """The same, in RQ's words."""
    for job in queue.enqueue_many([rq.Queue.prepare_data(noop) for _ in range(RQ_CALLS)]):
        job.latest_result(timeout=60)


def main() -> None:
    """Measure and print."""
    with LocalFly(rate_limits=False) as local:
        with warm_executor(local, 2) as ours, ProcessPoolExecutor(2) as pool:
            taken = medians(
                {
                    "flyexecutor": lambda: submit_all(ours),
                    "ProcessPoolExecutor(2)": lambda: submit_all(pool),
                    CHUNKED: lambda: list(ours.map(abs, range(CALLS), chunksize=50)),
                }
            )
        rates = {name: CALLS / seconds for name, seconds in taken.items()}
        url = other_database(local)
        with rq_workers(url, 2), redis.Redis.from_url(url) as connection:
            queue = rq.Queue(connection=connection)
            rates["RQ, 2 SimpleWorkers"] = RQ_CALLS / medians({"rq": lambda: enqueue_all(queue)}, 3)["rq"]
    chunked = {CHUNKED: rates.pop(CHUNKED)}
    show(f"{CALLS:,} no-op calls, 2 workers", rates, "calls/s", ">= 1.0 of ProcessPoolExecutor, >= 5 of RQ", chunked)


if __name__ == "__main__":
    main()
