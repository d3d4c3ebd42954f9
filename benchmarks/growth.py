"""What a call costs as work grows: no cliff shall be in the picture (`docs/growth.png`), which this draws.

Calls from 1 to 100,000; workers 1, 2 and 4 as processes, and up to 1,000 simulated by their scripts on a real Redis;
payloads from 100 bytes to 500 MB; pending futures up to 200,000; processes that submit from 1 to 100.
"""

import contextlib
import gc
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import psutil
import redis

from benchmarks._measure import echo, noop, other_database, warm_executor
from flyexecutor import FlyMachineExecutor, LocalFly, MachineStartError, RedisUnavailableError
from flyexecutor.call import Call, Outcome
from flyexecutor.lane import Lane
from flyexecutor.states import State
from flyexecutor.store.calls import Intake, Store

mpl.use("agg")
from matplotlib import pyplot as plt

PICTURE = Path(__file__).parent.parent / "docs" / "growth.png"
CALLS = (1, 10, 100, 1_000, 10_000, 100_000)
WORKERS = (1, 2, 4)
SIMULATED = (1, 10, 100, 1_000)
PAYLOADS = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 500_000_000)
PENDING = (1_000, 10_000, 50_000, 100_000, 200_000)
SUBMITTERS = (1, 2, 5, 10, 20, 50, 100)
EACH = 200  # calls that each process submits
SHORT = 0.01  # seconds
LANE = "growth"
SUBMIT = """
import sys, time
from benchmarks._measure import noop
from flyexecutor import FlyMachineExecutor
with FlyMachineExecutor(max_workers=2, idle_timeout=60.0) as executor:
    executor.submit(noop).result()
    print("ready", flush=True)
    sys.stdin.readline()
    for future in [executor.submit(noop) for _ in range(int(sys.argv[1]))]:
        future.result()
"""


@dataclass(frozen=True, slots=True)
class Series:
    """One panel of the picture."""

    title: str
    along: str
    unit: str
    lines: Mapping[str, Mapping[int, float]]  # what is measured: at which size, how much


def calls(ours: FlyMachineExecutor) -> Series:
    """ms for each call, so many at once."""

    def take(executor: Executor, number: int) -> float:
        began = time.perf_counter()
        for future in [executor.submit(noop) for _ in range(number)]:
            future.result()
        return (time.perf_counter() - began) / number * 1000

    def best(executor: Executor, number: int) -> float:
        return min(take(executor, number) for _ in range(3 if number < 100_000 else 1))

    with ProcessPoolExecutor(2) as pool:
        lines = {
            "flyexecutor, 2 workers": {number: best(ours, number) for number in CALLS},
            "ProcessPoolExecutor(2)": {number: best(pool, number) for number in CALLS},
        }
    return Series("calls at once", "calls", "ms per call", lines)


def workers(local: LocalFly) -> Series:
    """How much of the time of so many workers is used by calls of 10 ms."""
    used = {}
    for number in WORKERS:
        with warm_executor(local, number, lane=f"{number} workers") as executor:
            began = time.perf_counter()
            for future in [executor.submit(time.sleep, SHORT) for _ in range(200 * number)]:
                future.result()
            used[number] = 200 * SHORT / (time.perf_counter() - began)
    return Series("workers that sleep 10 ms", "workers", "of their time in calls", {"flyexecutor": used})


def simulated(url: str) -> Series:
    """ms for the scripts of a lone call, while so many workers have a place. No process of theirs is there."""
    store, lane = Store(url, "growth"), Lane(LANE, {}, (), max(SIMULATED), 1, 60.0)
    taken, joined = {}, 0
    for number in SIMULATED:
        for n in range(joined, number):
            store.join(LANE, f"m{n}", first=True)
            store.claim(LANE, f"m{n}", "", Intake(1, 1, 1, "", 0))
        joined = number
        began = time.perf_counter()
        for n in range(500):
            call_id = f"{number}-{n}"
            store.enqueue(
                lane, [Call(call_id, b"sealed")], client="c", result_ttl=60.0, reservation=f"c.{number}{n:04}"
            )
            info = store.info(call_id)
            assert info
            outcome = Outcome(call_id, 1, State.SUCCEEDED, info.machine_id, "", b"value")
            store.finish(LANE, info.machine_id, "", [outcome], Intake(1, 1, 1, "", 0))
        taken[number] = (time.perf_counter() - began) / 500 * 1000
    store.close()
    return Series("workers with a place, simulated", "workers", "ms per lone call's scripts", {"flyexecutor": taken})


def payloads(ours: FlyMachineExecutor, url: str) -> Series:
    """Seconds there and back; and SET and GET of the same bytes, twice."""
    taken: dict[int, float] = {}
    floor: dict[int, float] = {}
    with redis.Redis.from_url(url) as connection:
        for size in PAYLOADS:
            value = os.urandom(size)
            rounds = 5 if size < 50_000_000 else 1
            taken[size] = min(_seconds(lambda: ours.submit(echo, value).result()) for _ in range(rounds))  # noqa: B023
            if size < 100_000_000:  # Redis takes less than 512 MB in one, and a provider less than 10
                floor[size] = min(_seconds(lambda: _there_and_back(connection, value)) for _ in range(rounds))  # noqa: B023
    return Series("payload there and back", "bytes", "s", {"flyexecutor": taken, "SET and GET, twice": floor})


def pending(local: LocalFly) -> Series:
    """kB of client memory for each call that waits, so many at a time."""
    logging.getLogger("flyexecutor").setLevel(logging.ERROR)  # that there is no machine is what we want
    process, sizes = psutil.Process(), {}
    with FlyMachineExecutor(local=local, regions=["iad"], boot_timeout=3600.0) as ours:
        local.inject(no_capacity=["iad"])
        futures = [ours.submit(noop) for _ in range(100)]
        gc.collect()
        before, there = process.memory_info().rss, len(futures)
        for number in PENDING:
            futures += [ours.submit(noop) for _ in range(number - len(futures) + there)]
            with contextlib.suppress(MachineStartError):  # they are stored; there is no machine, and shall be none
                while True:
                    with contextlib.suppress(RedisUnavailableError):  # not yet
                        ours.flush(1.0)
            gc.collect()
            sizes[number] = (process.memory_info().rss - before) / number / 1000
        ours.shutdown(wait=False, cancel_futures=True)
        local.inject()
    return Series("pending futures", "futures", "kB each", {"flyexecutor": sizes})


def submitters(local: LocalFly) -> Series:
    """Calls per second of two workers, from so many processes together."""
    rates = {}
    with warm_executor(local, 2):
        for number in SUBMITTERS:
            command = [sys.executable, "-c", SUBMIT, str(EACH)]
            environment = {**os.environ, **local.environ()}
            processes = [
                subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                for _ in range(number)
            ]
            for process in processes:
                assert process.stdout
                process.stdout.readline()
            began = time.perf_counter()
            for process in processes:
                assert process.stdin
                process.stdin.write(b"go\n")
                process.stdin.flush()
            for process in processes:
                process.wait()
                process.communicate()
            rates[number] = number * EACH / (time.perf_counter() - began)
    return Series(f"processes that submit {EACH} calls", "processes", "calls/s together", {"flyexecutor": rates})


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _there_and_back(connection: "redis.Redis", value: bytes) -> None:
    for _ in range(2):
        connection.set("payload", value)
        connection.get("payload")


def draw(panels: Sequence[Series], facts: str) -> None:
    """The picture for the docs."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.5))
    for axis, panel in zip(axes.flat, panels, strict=True):
        for name, line in panel.lines.items():
            axis.plot(list(line), list(line.values()), marker="o", label=name)
        axis.set_xscale("log")
        axis.set_yscale("log" if panel.unit in {"ms per call", "s"} else "linear")
        if axis.get_yscale() == "linear":
            axis.set_ylim(bottom=0)
        axis.set_title(panel.title)
        axis.set_xlabel(panel.along)
        axis.set_ylabel(panel.unit)
        axis.grid(alpha=0.3)
        if len(panel.lines) > 1:
            axis.legend()
    figure.suptitle(facts, fontsize=9)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=90)


def main() -> None:
    """Measure, print and draw."""
    with LocalFly(rate_limits=False, show_output=False) as local:
        waiting = pending(local)  # first: later this process has memory that nobody uses
        with warm_executor(local, 2) as ours:
            panels = [calls(ours), payloads(ours, other_database(local))]
        panels += [workers(local), simulated(other_database(local)), submitters(local), waiting]
        with redis.Redis.from_url(local.redis_url) as connection:
            version = connection.info("server").get("redis_version")
    facts = (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"Redis {version}, redis-py {redis.__version__}, {time.strftime('%Y-%m-%d')}"
    )
    print(f"\nwhat a call costs as work grows\n  {facts}\n  goal: no cliff", flush=True)
    for panel in panels:
        print(f"  {panel.title} ({panel.unit})", flush=True)
        for name, line in panel.lines.items():
            cells = "  ".join(f"{size:,}: {value:.3g}" for size, value in line.items())
            print(f"    {name:<26}{cells}", flush=True)
    draw(panels, facts)
    print(f"  drawn in {PICTURE.name}", flush=True)


if __name__ == "__main__":
    main()
