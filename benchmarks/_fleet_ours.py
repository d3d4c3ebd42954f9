"""Our fleet in virtual time: `policy.plan` itself, called as `fleet.py` calls it; the rest mirrors that file,
`launch.py`, the pace of `lists.py` and the retries of `machines.py`, step by step.

Left out, as it decides nothing here: regions, volumes, further clients, and what a round trip takes.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from benchmarks._clock import Clock, Pause, Program, Steps
from benchmarks._fleet_fly import SimulatedFly
from benchmarks._fleet_redis import SimulatedRedis
from flyexecutor.errors import MachinesError
from flyexecutor.fleet import policy
from flyexecutor.fleet.api import ATTEMPTS, FIRST_PAUSE, LONGEST_PAUSE, is_capacity
from flyexecutor.fleet.fleet import FIRST_PAUSE as FIRST_LOOK_PAUSE
from flyexecutor.fleet.fleet import LOOK_EVERY, OVERDUE
from flyexecutor.fleet.launch import AVOID_FOR, CREATE_BURST
from flyexecutor.fleet.lists import LIST_BURST, LIST_EVERY
from flyexecutor.fleet.machine import Exit, Machine

T = TypeVar("T")


class SimulatedFleet:
    """The client's part: `Fleet` and `Launcher`."""

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        lane: SimulatedRedis,
        fly: SimulatedFly,
        *,
        needed: Callable[[], bool],
        start_cost: float = 0.0,
    ) -> None:
        self.looks = 0
        self.troubles = 0
        self.buried = 0
        self._clock = clock
        self._rng = rng
        self._lane = lane
        self._fly = fly
        self._needed = needed
        self._start_cost = start_cost  # seconds of this client's work for each start
        self._owed: list[str] = []
        self._woken = False
        self._look_again = -math.inf  # when its turn to look for all ends
        self._booting: dict[str, tuple[float, Exit | None]] = {}
        self._avoid: dict[str, float] = {}
        self._creates: deque[policy.Create] = deque()
        self._creating: dict[str, policy.Create] = {}
        self._starting: set[str] = set()
        self._pause = FIRST_LOOK_PAUSE
        self._create_at: float | None = None
        self._program = Program(clock, self._run())

    def start_soon(self, reservations: Sequence[str]) -> None:
        """Turn these reservations into machines."""
        self._owed.extend(reservations)
        self._woken = True
        self._program.wake()

    # fleet.py

    def _run(self) -> Steps:
        next_look = 0.0
        next_create: float | None = None
        while True:
            owed = yield from self._gather(next_look, next_create)
            if owed or self._clock.now >= next_look:
                next_look = self._clock.now + LOOK_EVERY
                next_look = min(next_look, self._clock.now + (yield from self._tend(owed)))
            next_create = self._create()

    def _gather(self, next_look: float, next_create: float | None) -> Generator[Pause, None, list[str]]:
        while not self._owed:
            if self._woken and not self._needed():
                self._woken = False
            due = [at for at in (next_look if self._woken else None, next_create) if at is not None]
            left = min(due) - self._clock.now if due else math.inf
            if left <= 0:
                break
            yield Pause(left, wakeable=True)
        owed, self._owed = self._owed, []
        return owed

    def _tend(self, owed: Sequence[str]) -> Generator[Pause, None, float]:
        self.looks += 1
        creating, starting = [*self._creating.values(), *self._creates], frozenset(self._starting)
        held = [*owed, *(create.reservation for create in creating)]
        look = self._lane.look(f"look{self.looks}", held)
        reservations = [*owed, *look.reservations]
        self._booting = {name: since for name, since in self._booting.items() if name in look.starts}
        booting = dict(self._booting)
        try:
            if not (reservations or booting):
                if self._clock.now < self._look_again:
                    return LOOK_EVERY
                self._look_again = self._clock.now + LOOK_EVERY * 0.9
            machines = yield from self._list()
        except MachinesError:
            for reservation in reservations:
                self._lane.release(reservation)
            self.troubles += 1
            return LOOK_EVERY
        now = self._clock.now
        seen = policy.Snapshot(
            machines=machines,
            workers=look.workers,
            starts=look.starts,
            reservations=reservations,
            creating=creating,
            starting=starting,
            booting={machine_id: exit_before for machine_id, (_, exit_before) in booting.items()},
            max_workers=self._lane.rules.max_workers,
            overdue=frozenset(name for name, (since, _) in booting.items() if now - since > OVERDUE),
            warm=self._lane.rules.warm,
            avoid=frozenset(machine_id for machine_id, until in self._avoid.items() if until > now),
            now=now,
            patience=self._lane.rules.boot_timeout,
        )
        again = LOOK_EVERY
        for action in policy.plan(seen):
            again = min(again, (yield from self._act(action)))
        if again == self._pause:
            self._pause = min(LOOK_EVERY, self._pause * 2)
        self._give_up_slow_boots(booting)
        return again

    def _act(self, action: policy.Action) -> Generator[Pause, None, float]:
        """Answers the seconds until the next look."""
        match action:
            case policy.Start():
                if self._start_cost:
                    yield Pause(self._start_cost)
                self._start(action)
            case policy.Create():
                self._creates.append(action)
            case policy.GiveBack(reservation):
                self._lane.release(reservation)
                return self._pause
            case policy.Bury(machine_id, joined, machine):
                machine = machine or self._fly.get(machine_id)
                if machine is None or machine.state in policy.GONE:
                    self.buried += 1
                    return 0.0 if self._lane.bury(machine_id, joined) > 0 else LOOK_EVERY
            case policy.GiveUp(machine_id, _, again):
                self._forget(machine_id)
                self.troubles += 1
                return 0.0 if again else LOOK_EVERY
            case policy.Stop(machine):
                self._forget(machine.id)
                self._fly.stop(machine.id)
        return LOOK_EVERY

    # launch.py

    def _start(self, action: policy.Start) -> None:
        machine = action.machine
        if not self._lane.assign(action.reservation, machine.id):
            self._lane.release(action.reservation)
            return
        self._booting[machine.id] = (self._clock.now, machine.exit)
        Program(self._clock, self._start_thread(machine.id, awaits_rest=machine.state in policy.LEAVING))

    def _start_thread(self, machine_id: str, *, awaits_rest: bool) -> Steps:
        self._starting.add(machine_id)
        try:
            if awaits_rest:
                while (machine := self._fly.get(machine_id)) and machine.state in policy.LEAVING:
                    yield Pause(0.05)
            yield from self._request(lambda: self._fly.start(machine_id))
            self._pause = FIRST_LOOK_PAUSE
        except MachinesError as exc:
            if is_capacity(exc):
                self._avoid[machine_id] = self._clock.now + AVOID_FOR
            self._forget(machine_id)
            self.troubles += 1
        finally:
            self._starting.discard(machine_id)

    def _create(self) -> float | None:
        """Create what may be created now. Answers when the next may be."""
        while self._creates:
            if self._create_at is None:
                self._create_at = self._clock.now + self._lane.pace_create(self._lane.rules.create_every, CREATE_BURST)
            if self._create_at > self._clock.now:
                return self._create_at
            action = self._creates.popleft()
            self._create_at = None
            if self._needed():
                self._creating[action.reservation] = action
                Program(self._clock, self._create_thread(action))
            else:
                self._lane.release(action.reservation)
        return None

    def _create_thread(self, action: policy.Create) -> Steps:
        try:
            machine_id = yield from self._request(lambda: self._fly.create(keeper=action.keeper))
        except MachinesError:
            self._lane.release(action.reservation)
            self.troubles += 1
        else:
            self._pause = FIRST_LOOK_PAUSE
            self._booting[machine_id] = (self._clock.now, None)
            if not self._lane.assign(action.reservation, machine_id):
                self._lane.release(action.reservation)
        finally:
            del self._creating[action.reservation]

    def _give_up_slow_boots(self, booting: dict[str, tuple[float, Exit | None]]) -> None:
        for machine_id, (since, _) in booting.items():
            if self._clock.now - since > self._lane.rules.boot_timeout:
                self._forget(machine_id)
                self._fly.stop(machine_id)
                self.troubles += 1

    def _forget(self, machine_id: str) -> None:
        self._booting.pop(machine_id, None)
        self._lane.release(machine_id)

    # lists.py

    def _list(self) -> Generator[Pause, None, Sequence[Machine]]:
        if wait := self._lane.pace_list(LIST_EVERY, LIST_BURST):
            yield Pause(wait)
        return (yield from self._request(self._fly.list))

    # machines.py

    def _request(self, ask: Callable[[], T]) -> Generator[Pause, None, T]:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return ask()
            except MachinesError as exc:
                if attempt == ATTEMPTS or exc.status != 429:
                    raise
                yield Pause(self._rng.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)))
        raise AssertionError("unreachable")
