"""Client memory of calls that wait: 100,000 futures of calls that Redis has and no machine runs yet."""

import contextlib
import gc
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import psutil

from benchmarks._measure import noop, show
from flyexecutor import FlyMachineExecutor, LocalFly, MachineStartError, RedisUnavailableError

CALLS = 100_000


def measure(submit: Callable[[int], Sequence[object]]) -> float:
    """kB of this process for each call that is pending."""
    process = psutil.Process()
    submit(1000)  # what is there once
    gc.collect()
    before = process.memory_info().rss
    futures = submit(CALLS)
    gc.collect()
    taken = process.memory_info().rss - before
    assert len(futures) == CALLS
    return taken / CALLS / 1000


def main() -> None:
    """Measure and print."""
    logging.getLogger("flyexecutor").setLevel(logging.ERROR)  # that there is no machine is what we want
    with LocalFly(rate_limits=False) as local, FlyMachineExecutor(local=local, regions=["iad"]) as ours:
        local.inject(no_capacity=["iad"])

        def submit(number: int) -> Sequence[object]:
            futures = [ours.submit(noop) for _ in range(number)]
            with contextlib.suppress(MachineStartError):  # they are stored; there is no machine, and shall be none
                while True:
                    with contextlib.suppress(RedisUnavailableError):  # not yet
                        ours.flush(1.0)
            return futures

        size = measure(submit)
        ours.shutdown(wait=False, cancel_futures=True)
    floor = measure(lambda number: [Future() for _ in range(number)])
    rows = {f"flyexecutor, {CALLS:,} calls": size, "concurrent.futures.Future alone": floor}
    show("client memory of a call that waits", rows, "kB", "< 1.5 kB")


if __name__ == "__main__":
    main()
