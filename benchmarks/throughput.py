"""5,000 calls that do nothing, on two workers: against ProcessPoolExecutor(2), and two RQ workers on the same Redis."""

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import redis
import rq

from benchmarks._measure import noop, seconds, show, warm_executor
from flyexecutor import FlyMachineExecutor, LocalFly

CALLS = 5_000
RQ_CALLS = 500  # it takes milliseconds for each: as a rate


def submit_all(executor: FlyMachineExecutor | ProcessPoolExecutor) -> None:
    for future in [executor.submit(noop) for _ in range(CALLS)]:
        future.result()


def rq_rate(url: str) -> float:
    """Calls a second of two RQ workers that work off a full queue; SimpleWorker, the one that does not fork."""
    with redis.Redis.from_url(url) as connection:
        queue = rq.Queue(connection=connection)

        def work() -> None:
            for _ in range(RQ_CALLS):
                queue.enqueue(noop)
            command = [sys.executable, "-m", "rq.cli", "worker", "--burst", "--quiet", "--url", url]
            command += ["--worker-class", "rq.SimpleWorker"]
            workers = [subprocess.Popen(command) for _ in range(2)]
            for worker in workers:
                worker.wait()

        def start_only() -> None:
            for worker in [subprocess.Popen([sys.executable, "-c", "import rq.cli"]) for _ in range(2)]:
                worker.wait()

        return RQ_CALLS / (seconds(work, 3) - seconds(start_only, 3))


def main() -> None:
    """Measure and print."""
    with LocalFly(rate_limits=False) as local:
        with warm_executor(local, 2) as ours:
            our_rate = CALLS / seconds(lambda: submit_all(ours))
            chunked = CALLS / seconds(lambda: list(ours.map(abs, range(CALLS), chunksize=50)))
        with ProcessPoolExecutor(2) as pool:
            submit_all(pool)
            pool_rate = CALLS / seconds(lambda: submit_all(pool))
        rows = {
            "flyexecutor": our_rate,
            "ProcessPoolExecutor(2)": pool_rate,
            "RQ, 2 SimpleWorkers": rq_rate(local.redis_url[:-1] + "1"),
        }
    show("5,000 no-op calls, 2 workers", rows, "calls/s", ">= 1.0 of ProcessPoolExecutor, >= 5 of a Redis queue")
    print(f"  for information: map(chunksize=50) {chunked:,.0f} items/s")


if __name__ == "__main__":
    main()
