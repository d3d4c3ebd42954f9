"""submit to result when the machine rests, piece by piece: what a web page feels after a quiet minute.

The local Fly takes what Fly takes: 100 ms for a request, 300 ms for a resumption; with its documented rate limits. The
floor is one request and one resumption, all else is ours: the way to Redis and back, a worker that joins again.
"""

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from benchmarks._measure import noop
from flyexecutor import FlyMachineExecutor, LocalFly
from flyexecutor.fleet.api import MachinesClient

API, RESUME = 0.1, 0.3  # seconds
FLOOR = API + RESUME
CALLS = 20  # of each executor
APART = 1.5  # seconds that the machines have rested before the next call
FLEETS = 4


@dataclass(slots=True)
class Starts:
    """The starts that were asked for, and how many lists."""

    asked: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    lists: int = 0

    def watch(self) -> Callable[[], None]:
        """Note them from now on, until what this answers is called."""
        start, list_all = MachinesClient.start, MachinesClient.list_all

        def note_start(client: MachinesClient, machine_id: str) -> str:
            self.asked.append(time.perf_counter())
            before = start(client, machine_id)
            self.answered.append(time.perf_counter())
            return before

        def note_list(client: MachinesClient, *, attempts: int) -> object:
            self.lists += 1
            return list_all(client, attempts=attempts)

        MachinesClient.start, MachinesClient.list_all = note_start, note_list  # type: ignore[method-assign, assignment]

        def end() -> None:
            MachinesClient.start, MachinesClient.list_all = start, list_all  # type: ignore[method-assign]

        return end


def take(local: LocalFly, executor: FlyMachineExecutor, starts: Starts) -> tuple[float, list[float]]:
    """Seconds from submit to result, and the pieces: to the start, to its answer, to the result."""
    while set(local.states().values()) != {"suspended"}:
        time.sleep(0.05)
    time.sleep(APART)
    began, before = time.perf_counter(), len(starts.asked)
    executor.submit(noop).result()
    ended = time.perf_counter()
    asked, answered = starts.asked[before], starts.answered[before]
    return ended - began, [asked - began, answered - asked, ended - answered]


def take_at_once(local: LocalFly, executors: Sequence[FlyMachineExecutor]) -> list[float]:
    """The same for one call of each executor, all at the same moment."""
    while set(local.states().values()) != {"suspended"}:
        time.sleep(0.05)
    time.sleep(APART)
    together = threading.Barrier(len(executors))

    def call(executor: FlyMachineExecutor) -> float:
        together.wait()
        began = time.perf_counter()
        executor.submit(noop).result()
        return time.perf_counter() - began

    with ThreadPoolExecutor(len(executors)) as people:
        return list(people.map(call, executors))


def main() -> None:
    """Measure and print."""
    print(f"\na call on a machine that rests\n  goal: <= 1.1 of {FLOOR} s; lists: <= 0.05 for each start", flush=True)
    with LocalFly(resume=RESUME) as local:
        executors = [
            FlyMachineExecutor(local=local, max_workers=1, idle_timeout=0.2, env={"FLEET": str(n)})
            for n in range(FLEETS)
        ]
        for executor in executors:
            executor.submit(noop).result()
        local.inject(latency=(API, API))
        starts = Starts()
        end = starts.watch()
        taken, pieces = zip(*(take(local, executors[0], starts) for _ in range(CALLS)), strict=True)
        _show("one executor", taken, starts)
        for name, piece in zip(
            ("submit to start", "its answer", "to the result"), zip(*pieces, strict=True), strict=True
        ):
            print(f"    {name:<20}{statistics.median(piece):>8.3f} s", flush=True)
        starts.lists = 0
        del starts.asked[:]
        at_once = [seconds for _ in range(CALLS) for seconds in take_at_once(local, executors)]
        _show(f"{FLEETS} executors of one app at once", at_once, starts)
        end()
        for executor in executors:
            executor.shutdown()


def _show(what: str, taken: Sequence[float], starts: Starts) -> None:
    deciles = statistics.quantiles(taken, n=10)
    p50, p90 = statistics.median(taken), deciles[8]
    print(
        f"  {what:<34} p50 {p50:.3f} s ({p50 / FLOOR:.2f})  p90 {p90:.3f} s ({p90 / FLOOR:.2f})  "
        f"worst {max(taken):.3f} s  lists {starts.lists / len(starts.asked):.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
