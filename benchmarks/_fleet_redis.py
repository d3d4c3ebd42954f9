"""A lane as the Lua scripts keep it, in memory and virtual time, for one call at a time per machine. No Redis.

Each method names the script that it mirrors; what differs is that nothing is stored but what decides.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks._clock import Clock
from flyexecutor.fleet.launch import CREATE_EVERY
from flyexecutor.store.calls import SUSPEND_EVERY, Granted, Stay
from flyexecutor.store.lanes import RESERVATION_TTL, LaneLook

UNREAD_FOR = 5.0  # seconds
SETTLED = 1.0  # seconds after which who has left rests indeed, most likely
RETRIES = 2  # of a call whose machine was lost: the executor's default


@dataclass(slots=True, eq=False)
class Call:
    """A call and what became of it."""

    at: float  # of its arrival
    seconds: float
    began: float | None = None  # for the first time
    ended: float | None = None
    losses: int = 0
    lost: bool = False


class Reader(Protocol):
    """A worker that has nothing to do."""

    name: str

    def read(self, call: Call) -> bool:
        """The call that was handed to it; False: it is not read."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a lane and its workers are told: an executor's arguments, and constants of the package."""

    max_workers: int
    warm: int
    idle_timeout: float
    boot_timeout: float
    load_window: float
    suspend_every: float = SUSPEND_EVERY
    create_every: float = CREATE_EVERY


@dataclass(slots=True)
class _Load:
    """lib_load.lua."""

    at: float = -math.inf
    peak: int = 0
    before: int = 0

    def note(self, load: int, window: float, now: float) -> None:
        age = now - self.at
        if age >= window:
            self.before = 0 if age >= 2 * window else self.peak
            self.at, self.peak = now, load
        else:
            self.peak = max(self.peak, load)

    def most(self, window: float, now: float) -> int:
        age = now - self.at
        return max(self.peak if age < 2 * window else 0, self.before if age < window else 0)


@dataclass(slots=True, eq=False)
class SimulatedRedis:
    """One lane."""

    clock: Clock
    rules: Rules
    queue: deque[Call] = field(default_factory=deque)
    claims: dict[str, Call] = field(default_factory=dict)  # machine -> the call that it runs
    unread: dict[str, float] = field(default_factory=dict)  # machine that has died -> since when a call waits there
    places: dict[str, Reader] = field(default_factory=dict)  # the one that rested last is the last
    workers: dict[str, str] = field(default_factory=dict)  # machine -> time of its join
    starts: dict[str, float] = field(default_factory=dict)  # reservation or machine -> when it expires
    resting: dict[str, float] = field(default_factory=dict)  # machine -> when its worker left; that came last is last
    load: _Load = field(default_factory=_Load)
    creates: float = 0.0  # when the next machine may be created
    lists: float = 0.0  # when the next list may be asked for
    suspends: float = 0.0  # when the next may be suspended
    ended: int = 0  # calls
    looks: int = 0
    joins: int = 0
    first_expiry: float = math.inf  # of `starts`, at the soonest

    @property
    def length(self) -> int:
        """What waits and what runs."""
        return len(self.queue) + len(self.claims)

    def enqueue(self, calls: Sequence[Call], name: str) -> Granted:
        """enqueue.lua."""
        self.queue.extend(calls)
        self._hand_out()
        self.load.note(self.length, self.rules.load_window, self.clock.now)
        if not self.queue:
            return Granted()
        resting: list[str] = []
        reservations = self._reserve(name, resting)
        return Granted(reservations, [(machine_id, "") for machine_id in resting], waits=True)

    def look(self, name: str, held: Iterable[str]) -> LaneLook:
        """reserve.lua."""
        self.looks += 1
        self._take_back_unread()
        for reservation in held:
            if reservation in self.starts:
                self.starts[reservation] = max(self.starts[reservation], self.clock.now + RESERVATION_TTL)
        granted = self._reserve(name)
        return LaneLook(granted, dict(self.workers), frozenset(self.starts), None)

    def assign(self, reservation: str, machine_id: str, *, reserved: bool = False) -> bool:
        """assign.lua."""
        if machine_id in self.workers or machine_id in self.starts or (reserved and reservation not in self.starts):
            return False
        self.starts.pop(reservation, None)
        self._expect(machine_id, self.rules.boot_timeout)
        return True

    def is_counted_on(self, name: str) -> bool:
        """Whether somebody waits for it to join."""
        return self.starts.get(name, 0.0) > self.clock.now

    def fail(self) -> None:
        """fail.lua: what waits ends with an error."""
        for call in self.queue:
            call.lost = True
            self._end(call)
        self.queue.clear()

    def release(self, name: str) -> None:
        """release.lua."""
        self.starts.pop(name, None)

    def pace_create(self, every: float, burst: int) -> float:
        """pace.lua. Answers the seconds to wait."""
        self.creates = max(self.clock.now, self.creates) + every
        return max(0.0, self.creates - self.clock.now - every * burst)

    def pace_list(self, every: float, burst: int) -> float:
        """The same in seek.lua."""
        self.lists = max(self.clock.now, self.lists) + every
        return max(0.0, self.lists - self.clock.now - every * burst)

    def join(self, machine_id: str) -> None:
        """join.lua, the first of a process."""
        self._lose_call(machine_id)
        self._enter(machine_id)

    def join_if_started(self, machine_id: str) -> bool:
        """join.lua, after a suspension."""
        if machine_id not in self.starts:
            return False
        self._enter(machine_id)
        return True

    def claim(self, reader: Reader) -> None:
        """claim.lua: a call that waits, at once, or the next that comes while nobody has rested later."""
        self.places.pop(reader.name, None)
        self.places[reader.name] = reader
        self._hand_out()

    def finish(self, machine_id: str, call: Call) -> tuple[bool, Call | None]:
        """finish.lua. Answers whether the worker is spare, and the next call."""
        if self.claims.get(machine_id) is call:
            del self.claims[machine_id]
            self._end(call)
        self.load.note(max(1, self.length), self.rules.load_window, self.clock.now)
        following = None
        if self.queue:
            following = self._claim(machine_id)
        return following is None and self._spare(), following

    def leave(self, machine_id: str, idle_left: float, *, suspends: bool, rests: bool) -> Stay | None:
        """leave.lua, without `must`. None: it has left."""
        now = self.clock.now
        self.places.pop(machine_id, None)
        self._take_back_unread()
        if self.queue:
            return Stay(0.0, "needed")
        if idle_left > 0 and not self._spare():
            return Stay(idle_left, "needed")
        if suspends and self.rules.suspend_every:
            turn = max(now, self.suspends)
            self.suspends = turn + self.rules.suspend_every
            if turn > now:
                return Stay(turn - now, "turn")
        self.workers.pop(machine_id, None)
        if rests:
            self.resting.pop(machine_id, None)
            self.resting[machine_id] = now
        return None

    def bury(self, machine_id: str, joined: str) -> int:
        """bury.lua. Answers how many calls it had."""
        if self.workers.get(machine_id) != joined:
            return 0
        lost = self._lose_call(machine_id)
        del self.workers[machine_id]
        return lost

    # lib_lose.lua

    def _take_back_unread(self) -> None:
        for machine_id in [one for one, since in self.unread.items() if self.clock.now - since >= UNREAD_FOR]:
            if self.claims[machine_id].losses < RETRIES:
                self._lose_call(machine_id)

    # lib_reserve.lua

    def _spare(self) -> bool:
        load = max(self.length, self.load.most(self.rules.load_window, self.clock.now))
        return len(self.workers) > load

    def _reserve(self, name: str, resting: list[str] | None = None) -> list[str]:
        """resting: gets the machines that are handed out instead."""
        now = self.clock.now
        if self.first_expiry <= now:
            self.starts = {start: expires for start, expires in self.starts.items() if expires > now}
            self.first_expiry = min(self.starts.values(), default=math.inf)
        wanted = min(self.length, self.rules.max_workers)
        granted: list[str] = []
        for _ in range(wanted - len(self.workers) - len(self.starts)):
            if resting is not None and (machine_id := self._take_resting()):
                resting.append(machine_id)
                self._expect(machine_id, RESERVATION_TTL)
            else:
                granted.append(f"{name}:{len(granted) + 1}")
                self._expect(granted[-1], RESERVATION_TTL)
        return granted

    def _take_resting(self) -> str | None:
        """lib_resting.lua."""
        while self.resting:
            settled = (each for each, left_at in reversed(self.resting.items()) if left_at <= self.clock.now - SETTLED)
            machine_id = next(settled, None) or next(iter(self.resting))
            del self.resting[machine_id]
            if machine_id not in self.workers and machine_id not in self.starts:
                return machine_id
        return None

    def _expect(self, start: str, seconds: float) -> None:
        expires = self.clock.now + seconds
        self.starts[start] = expires
        self.first_expiry = min(self.first_expiry, expires)

    def _enter(self, machine_id: str) -> None:
        self.joins += 1
        self.workers[machine_id] = str(self.joins)
        self.starts.pop(machine_id, None)

    def _lose_call(self, machine_id: str) -> int:
        self.places.pop(machine_id, None)
        self.unread.pop(machine_id, None)
        call = self.claims.pop(machine_id, None)
        if call is None:
            return 0
        if call.losses < RETRIES:
            call.losses += 1
            self.queue.append(call)
            self._hand_out()
        else:
            call.lost = True
            self._end(call)
        return 1

    def _end(self, call: Call) -> None:
        call.ended = self.clock.now
        self.ended += 1

    def _hand_out(self) -> None:
        while self.queue and self.places:
            name, reader = self.places.popitem()
            if not reader.read(self._claim(name)):
                self.unread[name] = self.clock.now

    def _claim(self, machine_id: str) -> Call:
        call = self.queue.popleft()
        self.claims[machine_id] = call
        if call.began is None:
            call.began = self.clock.now
        return call
