"""What the benchmarks share: functions to submit, a warm executor, and how a result is printed."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flyexecutor import FlyMachineExecutor, LocalFly

ROUNDS = 5


def noop() -> None:
    """The call that does nothing."""


def echo(value: bytes) -> bytes:
    """The call that gives back what it was given."""
    return value


@contextmanager
def warm_executor(local: LocalFly, workers: int) -> Iterator[FlyMachineExecutor]:
    """An executor whose machines have started and have run calls."""
    with FlyMachineExecutor(local=local, max_workers=workers, idle_timeout=30.0) as executor:
        for _ in range(3):
            list(executor.map(pow, range(500), range(500)))
        yield executor


def seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median of some rounds."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def show(what: str, rows: dict[str, float], unit: str, goal: str) -> None:
    """Print each number, and ours over each of the others. The first row is ours."""
    ours, *others = rows
    print(f"\n{what}\n  goal: {goal}")
    for name, value in rows.items():
        print(f"  {name:<44}{value:>12,.3f} {unit}")
    for name in others:
        print(f"  {ours} / {name} = {rows[ours] / rows[name]:.2f}")
