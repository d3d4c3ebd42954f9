"""Our fleet in virtual time: `turns`, `ledger` and `policy` themselves, called as `fleet.py` calls them. The requests
that follow mirror `launch.py` and `losses.py`, the pace of `lists.py` and the retries of `api.py`.

Left out, as it decides nothing here: regions, volumes, further clients, and what a round trip takes.
"""

import math
import random
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from benchmarks._clock import Clock, Pause, Program, Steps
from benchmarks._fleet_fly import SimulatedFly
from benchmarks._fleet_redis import SimulatedRedis
from flyexecutor.errors import MachinesError, MachineStartError
from flyexecutor.fleet import policy
from flyexecutor.fleet.api import ATTEMPTS, FIRST_PAUSE, LONGEST_PAUSE, is_capacity
from flyexecutor.fleet.launch import CREATE_BURST
from flyexecutor.fleet.ledger import OVERTAKEN, Ledger
from flyexecutor.fleet.lists import LIST_BURST, LIST_EVERY
from flyexecutor.fleet.machine import Machine
from flyexecutor.fleet.turns import Heard, Turns
from flyexecutor.lane import Lane
from flyexecutor.store.calls import Granted

T = TypeVar("T")


class SimulatedFleet:
    """The client's part: `Fleet`, `Launcher` and `Losses`."""

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        redis: SimulatedRedis,
        fly: SimulatedFly,
        *,
        busy_since: Callable[[], float | None],
        start_cost: float = 0.0,
    ) -> None:
        self.turns = Turns("sim")
        self._clock = clock
        self._rng = rng
        self._redis = redis
        self._fly = fly
        self._busy_since = busy_since
        self._start_cost = start_cost  # seconds of this client's work for each start
        rules = redis.rules
        self._lane = Lane("sim", {}, (), rules.max_workers, 1, rules.boot_timeout, warm=rules.warm)
        self._ledger = Ledger()
        self._locked_until = -math.inf  # by us, who look for all
        self._program = Program(clock, self._run())

    def start_soon(self, granted: Granted) -> None:
        """Start what calls were stored with."""
        unserved = granted.waits and not granted.reservations and not granted.resting
        self.turns.part_busy_times(self._ledger, self._busy_since())
        self.turns.start_soon(granted.reservations, self._clock.now, at_once=unserved)
        self._program.wake()
        for machine_id, _ in granted.resting:
            action = policy.Wake(machine_id)
            self._ledger.boot(machine_id, None, self._clock.now, seen=False)
            self._ledger.begin(action)
            Program(self._clock, self._wake_thread(action))

    # fleet.py

    def _run(self) -> Steps:
        next_create: float | None = None
        while True:
            yield from self._gather(next_create)
            if self.turns.pace.is_due(self._clock.now):
                yield from self._tend()
            next_create = self._create()

    def _gather(self, next_create: float | None) -> Generator[Pause, None, None]:
        while True:
            self.turns.park(self._ledger, self._busy_since)
            due = self.turns.pace.due(next_create)
            left = math.inf if due is None else due - self._clock.now
            if left <= 0:
                return
            yield Pause(left, wakeable=True)

    def _tend(self) -> Generator[Pause, None, None]:
        turn = self.turns.begin(self._ledger, self._clock.now)
        look = self._redis.look(turn.name, turn.held)
        heard = self.turns.hear(turn, look, self._ledger)
        try:
            if heard.is_ours_to_see_to or self._may_look_for_all():
                yield from self._plan(heard)
        except MachinesError as exc:
            for reservation in heard.reservations:
                self._redis.release(reservation)
            self._trouble(exc)
        self.turns.end(turn, look)

    def _may_look_for_all(self) -> bool:
        if self._clock.now < self._locked_until:
            return False
        self._locked_until = self._clock.now + self.turns.lock_seconds
        return True

    def _plan(self, heard: Heard) -> Generator[Pause, None, None]:
        machines = yield from self._list()
        now = self._clock.now
        again = False
        for action in self.turns.plan(heard, machines, self._lane, self._ledger, now=now, moment=now):
            if self._start_cost and isinstance(action, policy.Start):
                yield Pause(self._start_cost)
            again |= self._act(action)
        if again:
            self.turns.pace.look_by(0.0)

    def _act(self, action: policy.Action) -> bool:
        """Answers whether to look again at once."""
        match action:
            case policy.Start():
                return not self._start(action)
            case policy.Create():
                self._ledger.create_soon(action)
            case policy.GiveBack(reservation):
                self._redis.release(reservation)
                self.turns.pace.look_soon(self._clock.now)
            case policy.Bury(machine_id, joined, machine):
                return self._is_gone(machine_id, machine) and self._redis.bury(machine_id, joined) > 0
            case policy.GiveUp(machine_id, machine):
                return self._is_gone(machine_id, machine) and self._give_up(action)
            case policy.Abandon(machine_id) if self._ledger.is_booting(machine_id):
                self._forget(machine_id)
                self._fly.stop(machine_id)
                self._trouble(MachineStartError("it does not join", phase="join"), passing=not action.begun)
            case policy.Stop(machine):
                self._forget(machine.id)
                self._fly.stop(machine.id)
        return False

    def _trouble(self, error: MachinesError, *, passing: bool = False) -> None:
        now = self._clock.now
        hopeful = self.turns.meet(error, now, self._lane.boot_timeout, passing=passing)
        self._program.wake()
        if not (hopeful or self._redis.workers):
            self._redis.fail()
            self.turns.troubles.tell()

    # losses.py

    def _is_gone(self, machine_id: str, machine: Machine | None) -> bool:
        return machine is not None or policy.gone(self._fly.get(machine_id), self._clock.now)

    def _give_up(self, action: policy.GiveUp) -> bool:
        self._forget(action.machine_id)
        again = self.turns.give_up(action, self._clock.now, self._lane.boot_timeout)
        self._trouble(MachineStartError("it has ended", phase="boot"), passing=again)
        return again

    # launch.py

    def _start(self, action: policy.Start) -> bool:
        machine = action.machine
        self._ledger.boot(machine.id, machine.exit, self._clock.now)
        if not self._redis.assign(action.reservation, machine.id, reserved=True):
            self._ledger.forget(machine.id)
            self._redis.release(action.reservation)
            return False
        self._ledger.begin(action)
        Program(self._clock, self._start_thread(action))
        return True

    def _start_thread(self, action: policy.Start) -> Steps:
        machine_id = action.machine.id
        try:
            if action.machine.state in policy.LEAVING:
                yield from self._await_rest(machine_id)
            yield from self._request(lambda: self._fly.start(machine_id))
        except MachinesError as exc:
            passes = self._ledger.refuse(machine_id, exc, self._clock.now)
            self._forget(machine_id)
            self._trouble(exc, passing=passes)
        else:
            self._ledger.accept(machine_id, self._clock.now)
            self.turns.accepted()
        finally:
            self._ledger.end(action)

    def _wake_thread(self, action: policy.Wake) -> Steps:
        machine_id = action.machine_id
        try:
            yield from self._start_unseen(machine_id)
        except MachinesError as exc:
            passes = self._ledger.refuse(machine_id, exc, self._clock.now)
            self._forget(machine_id)
            if passes:
                self.turns.pace.look_by(0.0)
                self._program.wake()
            else:
                self._trouble(exc)
        else:
            self._ledger.accept(machine_id, self._clock.now)
            self.turns.accepted()
        finally:
            self._ledger.end(action)

    def _start_unseen(self, machine_id: str) -> Steps:
        try:
            if (yield from self._request(lambda: self._fly.start(machine_id))) != "started":
                return
        except MachinesError as exc:
            if exc.status not in OVERTAKEN or is_capacity(exc) or self._fly.get(machine_id) is None:
                raise
        yield from self._await_rest(machine_id)
        yield from self._request(lambda: self._fly.start(machine_id))

    def _await_rest(self, machine_id: str) -> Steps:
        while (machine := self._fly.get(machine_id)) and machine.state in policy.LEAVING:
            yield Pause(0.05)

    def _create(self) -> float | None:
        """Create what may be created now. Answers when the next may be."""
        every = self._redis.rules.create_every
        while True:
            now = self._clock.now
            create_at = self._ledger.next_create(now, lambda: self._redis.pace_create(every, CREATE_BURST))
            if create_at is None or create_at > now:
                return create_at
            action = self._ledger.first
            needed = self._busy_since() is not None
            wanted = needed and self._redis.is_counted_on(action.reservation)
            self._ledger.take_create(wanted=wanted)
            if wanted:
                Program(self._clock, self._create_thread(action))
            elif not needed:
                self._redis.release(action.reservation)

    def _create_thread(self, action: policy.Create) -> Steps:
        try:
            machine_id = yield from self._request(lambda: self._fly.create(keeper=action.keeper))
        except MachinesError as exc:
            self._redis.release(action.reservation)
            self._trouble(exc)
        else:
            self.turns.accepted()
            assigned = self._redis.assign(action.reservation, machine_id)
            self._ledger.boot(machine_id, None, self._clock.now)
            if not assigned:
                self._redis.release(action.reservation)
        finally:
            self._ledger.end(action)

    def _forget(self, machine_id: str) -> None:
        self._redis.release(machine_id)
        self._ledger.forget(machine_id)

    # lists.py

    def _list(self) -> Generator[Pause, None, Sequence[Machine]]:
        if wait := self._redis.pace_list(LIST_EVERY, LIST_BURST):
            yield Pause(wait)
        return (yield from self._request(self._fly.list))

    # api.py

    def _request(self, ask: Callable[[], T]) -> Generator[Pause, None, T]:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return ask()
            except MachinesError as exc:
                if attempt == ATTEMPTS or exc.status != 429:
                    raise
                yield Pause(self._rng.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)))
        raise AssertionError("unreachable")
