"""The workloads of the fleet's simulation, and a run of one of them with one policy."""

import functools
import inspect
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks._clock import Clock, Pause, Program, Steps
from benchmarks._fleet_fly import Bill, Box, SimulatedFly, Times
from benchmarks._fleet_others import Flame, OnePerCall, Runner
from benchmarks._fleet_ours import SimulatedFleet
from benchmarks._fleet_redis import Call, Rules, SimulatedRedis
from benchmarks._fleet_worker import SimulatedWorker
from flyexecutor import FlyMachineExecutor
from flyexecutor.client.outbox import BUNDLE_CALLS
from flyexecutor.fleet.config import IDLE_SUSPENDED, load_window
from flyexecutor.store.calls import Granted

DAY = 86400.0
TIMES = Times()
BATCH_EVERY = 0.02  # seconds that the outbox takes for BUNDLE_CALLS calls (benchmarks/throughput.py)
COOL_DOWN = 3600.0  # seconds after the last call in which machines must have come to rest
HOPELESS = DAY  # seconds after the last arrival: what has not ended then never will


@dataclass(frozen=True, slots=True)
class Work:
    """Calls, in the order of their arrival."""

    name: str
    calls: Sequence[tuple[float, float]]  # arrival, duration
    max_workers: int
    stock: int = 0  # suspended machines that are there before

    @property
    def ideal(self) -> float:
        """Seconds that it takes if machines cost nothing and are there at once."""
        longest = max(seconds for _, seconds in self.calls)
        return max(longest, sum(seconds for _, seconds in self.calls) / self.max_workers)


@dataclass(frozen=True, slots=True)
class Result:
    """How a policy did."""

    makespan: float  # from the first arrival to the last end
    useful: float  # seconds of machines in which calls ran to their end
    bill: Bill
    waits: Sequence[float]  # from arrival to the first begin, sorted
    lost: int  # calls
    at_end: Sequence[str]  # states of the machines that are there
    running: int  # machines that are billed at the end
    rested: float  # seconds after the last end in which the last machine came to rest
    looks: int = 0
    events: int = 0

    @property
    def billed_over_useful(self) -> float:
        """Of the safe bill, which includes boots."""
        return self.bill.seconds / self.useful

    def wait(self, part: float) -> float:
        """A quantile of the waits."""
        return self.waits[min(len(self.waits) - 1, int(part * len(self.waits)))]


def default_rules(
    max_workers: int | None = None, *, warm: int | None = None, idle_timeout: float | None = None
) -> Rules:
    """What an executor tells a lane of shared-cpu-1x by default."""
    told = inspect.signature(FlyMachineExecutor.__init__).parameters
    idle = IDLE_SUSPENDED if idle_timeout is None else idle_timeout
    return Rules(
        max_workers=max_workers or told["max_workers"].default,
        warm=told["warm"].default if warm is None else warm,
        idle_timeout=idle,
        boot_timeout=told["boot_timeout"].default,
        load_window=load_window(idle),
    )


# Workloads


def trickle(rng: random.Random, seconds: float = DAY) -> Work:
    """One call of 2 s each 5 s."""
    calls, at = [], rng.expovariate(1 / 5)
    while at < seconds:
        calls.append((at, 2.0))
        at += rng.expovariate(1 / 5)
    return Work("a trickle: a call of 2 s each 5 s", calls, default_rules().max_workers)


def web_day(rng: random.Random, seconds: float = DAY) -> Work:
    """Calls that follow the day, with bursts."""

    def duration() -> float:
        return rng.lognormvariate(math.log(3.0), 0.8)

    calls, at = [], 0.0
    while (at := at + rng.expovariate(0.5)) < seconds:  # thinned to the rate of its hour
        rate = 0.26 - 0.24 * math.cos(2 * math.pi * at / DAY)
        if rng.random() < rate / 0.5:
            calls.append((at, duration()))
    at = 0.0
    while (at := at + rng.expovariate(1 / 600)) < seconds:
        calls += [(at, duration()) for _ in range(rng.randint(5, 40))]
    return Work("a bursty web day", sorted(calls), default_rules().max_workers)


def fan_out(calls: int, seconds: float, machines: int, stock: int) -> Work:
    """So many calls at once."""
    what = f"{stock:,} suspended machines" if stock else "no machine yet"
    name = f"{calls:,} calls of {seconds:g} s on {machines:,} machines, {what}"
    return Work(name, [(0.0, seconds)] * calls, machines, stock)


# Policies


class StartsSoon(Protocol):
    """A fleet, as who sends calls knows it."""

    def start_soon(self, granted: Granted) -> None:
        """Start what calls were stored with."""


def ours(work: Work, seed: int, times: Times = TIMES, rules: Rules | None = None, start_cost: float = 0.0) -> Result:
    """Our policy and our rules, with an executor's defaults."""
    make = functools.partial(SimulatedFleet, start_cost=start_cost)
    return run_with(make, work, seed, times, rules or default_rules(work.max_workers))


def run_with(make_fleet: Callable[..., StartsSoon], work: Work, seed: int, times: Times, rules: Rules) -> Result:
    """A fleet of ours that looks at a model of Redis and asks a model of Fly; it is made with the arguments of
    `SimulatedFleet`.
    """
    clock, rng = Clock(), random.Random(seed)
    lane = SimulatedRedis(clock, rules)
    calls = [Call(at, seconds) for at, seconds in work.calls]
    sent, busy_since = 0, 0.0

    def guest(box: Box) -> SimulatedWorker:
        return SimulatedWorker(clock, lane, lambda: fly, box)

    fly = SimulatedFly(clock, rng, times, guest)
    fly.stock(work.stock)
    fleet = make_fleet(clock, rng, lane, fly, busy_since=lambda: busy_since if lane.ended < sent else None)

    def send() -> Steps:
        nonlocal sent, busy_since
        while sent < len(calls):
            if calls[sent].at > clock.now:
                yield Pause(calls[sent].at - clock.now)
            batch = [call for call in calls[sent : sent + BUNDLE_CALLS] if call.at <= clock.now]
            if lane.ended == sent:
                busy_since = clock.now
            sent += len(batch)
            fleet.start_soon(lane.enqueue(batch, f"batch{sent}"))
            if len(batch) == BUNDLE_CALLS:
                yield Pause(BATCH_EVERY)

    Program(clock, send())
    return _finish(clock, fly, calls, lambda: lane.ended, lambda: lane.looks)


def one_per_call(work: Work, seed: int, times: Times = TIMES) -> Result:
    """The proof of concept. It knows no limit of machines."""
    clock = Clock()
    return _theirs(work, seed, times, clock, OnePerCall(clock, len(work.calls)))


def flame(work: Work, seed: int, times: Times = TIMES) -> Result:
    """FLAME's way."""
    clock = Clock()
    return _theirs(work, seed, times, clock, Flame(clock, work.max_workers))


def _theirs(work: Work, seed: int, times: Times, clock: Clock, fleet: OnePerCall | Flame) -> Result:
    calls = [Call(at, seconds) for at, seconds in work.calls]
    fly = fleet.fly = SimulatedFly(clock, random.Random(seed), times, lambda box: Runner(fleet, box))
    for call in calls:
        clock.after(call.at, fleet.submit, [call])
    return _finish(clock, fly, calls, lambda: fleet.ended, lambda: 0)


def _finish(
    clock: Clock, fly: SimulatedFly, calls: Sequence[Call], ended: Callable[[], int], looks: Callable[[], int]
) -> Result:
    number = len(calls)
    clock.run(calls[-1].at + HOPELESS, lambda: ended() == number)
    makespan = clock.now - calls[0].at
    ended_at = clock.now
    clock.run(ended_at + COOL_DOWN, lambda: fly.rests)
    return Result(
        makespan=makespan,
        useful=sum(call.seconds for call in calls if not call.lost),
        bill=fly.bill,
        waits=sorted((math.inf if call.began is None else call.began) - call.at for call in calls),
        lost=sum(call.lost for call in calls) + number - ended(),
        at_end=[box.state for box in fly.boxes.values()],
        running=fly.awake,
        rested=clock.now - ended_at,
        looks=looks(),
        events=clock.events,
    )
