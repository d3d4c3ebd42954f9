"""What the benchmarks share: functions to submit, warm workers of ours and of RQ, medians, and the table.

Rounds of the numbers that are compared take turns, so that a busy computer slows each of them alike.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from flyexecutor import FlyMachineExecutor, LocalFly

ROUNDS = 5


def noop() -> None:
    """The call that does nothing."""


def echo(value: bytes | bytearray) -> bytes | bytearray:
    """The call that gives back what it was given."""
    return value


def other_database(local: LocalFly) -> str:
    """The same Redis server, but not our keys."""
    return local.redis_url.removesuffix("/0") + "/1"


@contextmanager
def warm_executor(
    local: LocalFly, workers: int, *, idle_timeout: float = 60.0, lane: str = ""
) -> Iterator[FlyMachineExecutor]:
    """An executor all of whose machines have started and have run calls. lane: whose machines are its own."""
    env = {"BENCHMARK": lane} if lane else None
    with FlyMachineExecutor(local=local, max_workers=workers, idle_timeout=idle_timeout, env=env) as executor:
        seen: set[str | None] = set()
        while len(seen) < workers:
            futures = [executor.submit(time.sleep, 0.05) for _ in range(4 * workers)]
            for future in futures:
                future.result()
                seen.add(future.machine_id)
        for future in [executor.submit(noop) for _ in range(1000)]:
            future.result()
        yield executor


@contextmanager
def rq_workers(url: str, workers: int) -> Iterator[None]:
    """RQ's workers on its default queue; SimpleWorker, which does not fork for each job and so is the fastest."""
    command = [sys.executable, "-m", "rq.cli", "worker", "--quiet", "--url", url, "--worker-class", "rq.SimpleWorker"]
    processes = [subprocess.Popen(command) for _ in range(workers)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def huey_workers(url: str, workers: int) -> Iterator[None]:
    """huey's consumer, with so many processes; `benchmarks._huey` can be imported then."""
    os.environ["HUEY_URL"] = url
    command = [sys.executable, "-m", "huey.bin.huey_consumer", "benchmarks._huey.huey", "-q", "-k", "process"]
    process = subprocess.Popen([*command, "-w", str(workers)], start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def medians(
    works: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, before: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Seconds that each takes, the median of some rounds; all take turns. The first round is not counted, nor is
    what must be done `before` a round.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for n in range(rounds + 1):
        before()
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if n:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


def show(
    what: str, rows: Mapping[str, float], unit: str, goal: str, information: Mapping[str, float] | None = None
) -> None:
    """Print each number, and ours over it; the first row is ours. What is for information has no ratio."""
    ours = next(iter(rows.values()))
    print(f"\n{what}\n  goal: {goal}\n  {'':<44}{unit:>12}{'ours / it':>12}", flush=True)
    for name, value in rows.items():
        print(f"  {name:<44}{value:>12,.2f}{ours / value:>12.2f}", flush=True)
    for name, value in (information or {}).items():
        print(f"  {name:<44}{value:>12,.2f}", flush=True)
