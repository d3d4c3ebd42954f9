"""A model of Fly for simulations: machines, rate limits, boots, suspensions, deaths and the bill. No network.

Rates are the documented ones: create and list one a second per app with a burst of three, start the same per machine.
The bill is kept twice: as Fly writes it, from `started` until the machine is at rest, and, to be on the safe side, from
the moment in which the start or the create was asked for.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks._clock import Clock
from flyexecutor.errors import MachinesError
from flyexecutor.fleet.machine import Exit, Machine

ON_THE_WAY = frozenset({"creating", "starting", "started"})
EVERY = 1.0  # seconds between two requests for the same action, per app or machine
BURST = 3


class Guest(Protocol):
    """What runs in a machine."""

    def begin(self) -> None:
        """The machine has booted."""

    def go_on(self) -> None:
        """The machine was resumed: the program is where it was."""

    def die(self) -> None:
        """The machine has died."""


@dataclass(frozen=True, slots=True)
class Times:
    """How fast Fly is, and how reliable."""

    boot: float = 2.0  # seconds from create or start to `started`
    resume: float = 0.3
    rest: float = 0.3  # from the wish to the end of the bill
    deaths: float = 0.01  # per hour of a machine
    create_every: float = EVERY  # 0: no rate limit


@dataclass(slots=True, eq=False)
class Box:
    """A machine as it is. `Machine` is what the API tells of it."""

    id: str
    keeper: bool
    state: str
    changed_at: float
    guest: Guest | None = None
    exit: Exit | None = None
    life: int = 0  # grows at each change of state: an event of an earlier one comes too late
    asked_at: float | None = None  # since when it is billed, and
    started_at: float | None = None  # since when Fly bills it
    resumes: bool = False
    full_at: float = 0.0  # its rate limit of starts
    told: Machine | None = None  # what the API tells, until its state changes


@dataclass(slots=True)
class Bill:
    """What a simulation counts."""

    creates: int = 0
    starts: int = 0
    refused: int = 0  # with 429
    deaths: int = 0
    seconds: float = 0.0  # of machines, from the request to the rest
    fly_seconds: float = 0.0  # of machines, from `started` to the rest
    most: int = 0  # machines on their way or started, at a time


@dataclass(slots=True)
class Bucket:
    """A rate limit: the moment in which it would be full again."""

    full_at: float = 0.0
    every: float = EVERY

    def take(self, now: float) -> bool:
        """Whether one more request may pass."""
        full = max(now, self.full_at) + self.every
        if full - now > BURST * self.every + 1e-9:
            return False
        self.full_at = full
        return True


class SimulatedFly:
    """The machines of one app."""

    def __init__(self, clock: Clock, rng: random.Random, times: Times, guest: Callable[[Box], Guest]) -> None:
        self.bill = Bill()
        self.boxes: dict[str, Box] = {}
        self.awake = 0  # billed now
        self._clock = clock
        self._rng = rng
        self._times = times
        self._guest = guest
        self._lists = Bucket()
        self._creates = Bucket(every=times.create_every)
        self._on_the_way = 0
        self._made = 0

    # The API

    def list(self) -> Sequence[Machine]:
        """All machines that are not destroyed."""
        self._limit(self._lists)
        return [box.told or self._tell(box) for box in self.boxes.values()]

    def get(self, machine_id: str) -> Machine | None:
        """One machine."""
        box = self.boxes.get(machine_id)
        return None if box is None else self._tell(box)

    def create(self, *, keeper: bool) -> str:
        """Create a machine, which boots. Answers its id."""
        self._limit(self._creates)
        self.bill.creates += 1
        box = self._make(keeper, "created")
        self._wake(box, "creating", self._times.boot)
        return box.id

    def start(self, machine_id: str) -> str:
        """Start a machine that rests. Answers in which state it was."""
        box = self.boxes.get(machine_id)
        if box is None:
            raise MachinesError("no such machine", 404)
        bucket = Bucket(box.full_at)
        self._limit(bucket)
        box.full_at = bucket.full_at
        before = box.state
        if before == "started":
            return before
        if box.state not in {"suspended", "stopped", "created"}:
            raise MachinesError(f"machine is {box.state}", 412)
        self.bill.starts += 1
        box.resumes = box.state == "suspended"
        self._wake(box, "starting", self._times.resume if box.resumes else self._times.boot)
        return before

    def suspend(self, box: Box) -> None:
        """What its worker asks for when it has left."""
        self._change(box, "suspending")
        self._clock.after(self._times.rest, self._rest, box, box.life, "suspended")

    def end(self, box: Box) -> None:
        """Its program has ended, or it is stopped."""
        box.exit = Exit(0, -1, False, int(self._clock.now * 1000))
        self._change(box, "stopping" if box.keeper else "destroying")
        self._clock.after(self._times.rest, self._rest, box, box.life, "stopped" if box.keeper else "destroyed")

    def stop(self, machine_id: str) -> None:
        """Stop a machine that runs for nobody."""
        box = self.boxes.get(machine_id)
        if box and box.state in ON_THE_WAY:
            self.end(box)

    # For simulations

    def stock(self, number: int) -> None:
        """Make suspended machines, as `prepare` does."""
        for _ in range(number):
            self._make(True, "suspended")

    @property
    def rests(self) -> bool:
        """Whether nothing is billed."""
        return not self.awake

    def _make(self, keeper: bool, state: str) -> Box:
        self._made += 1
        box = Box(f"m{self._made}", keeper, state, self._clock.now)
        box.guest = self._guest(box)
        self.boxes[box.id] = box
        return box

    def _wake(self, box: Box, state: str, seconds: float) -> None:
        box.asked_at = self._clock.now
        self.awake += 1
        self._change(box, state)
        self._clock.after(seconds, self._started, box, box.life)
        self._doom(box)

    def _started(self, box: Box, life: int) -> None:
        if box.life != life or box.guest is None:
            return
        box.started_at = self._clock.now
        self._change(box, "started")
        if box.resumes:
            box.guest.go_on()
        else:
            box.guest.begin()

    def _rest(self, box: Box, life: int, state: str) -> None:
        if box.life == life:
            self._close_bill(box)
            self._change(box, state)
            if state == "destroyed":
                del self.boxes[box.id]

    def _doom(self, box: Box) -> None:
        """When it would die, if it still ran then."""
        if self._times.deaths:
            seconds = self._rng.expovariate(self._times.deaths / 3600)
            if seconds < 86400.0:
                self._clock.after(seconds, self._die, box, box.asked_at)

    def _die(self, box: Box, asked_at: float) -> None:
        if box.asked_at != asked_at or box.guest is None:
            return  # it has rested since
        self.bill.deaths += 1
        host = self._rng.random() < 0.5
        self._close_bill(box)
        if host or not box.keeper:  # gone with its host, or destroyed by itself
            self._change(box, "destroyed")
            del self.boxes[box.id]
        else:
            box.exit = Exit(1, -1, False, int(self._clock.now * 1000))
            self._change(box, "stopped")
        box.guest.die()
        if box.keeper and not host:
            box.guest = self._guest(box)  # its memory is lost

    def _close_bill(self, box: Box) -> None:
        now = self._clock.now
        self.awake -= 1
        self.bill.seconds += now - (now if box.asked_at is None else box.asked_at)
        self.bill.fly_seconds += now - (now if box.started_at is None else box.started_at)
        box.asked_at = box.started_at = None

    def _change(self, box: Box, state: str) -> None:
        self._on_the_way += (state in ON_THE_WAY) - (box.state in ON_THE_WAY)
        self.bill.most = max(self.bill.most, self._on_the_way)
        box.state = state
        box.changed_at = self._clock.now
        box.life += 1
        box.told = None

    def _tell(self, box: Box) -> Machine:
        box.told = Machine(
            box.id, box.id, box.state, "sim", "1", "ok", box.exit, keeper=box.keeper, changed_at=box.changed_at
        )
        return box.told

    def _limit(self, bucket: Bucket) -> None:
        if not bucket.take(self._clock.now):
            self.bill.refused += 1
            raise MachinesError("rate limit exceeded", 429)
