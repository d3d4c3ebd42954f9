"""Step 5: carries out what the policy wants started or created, and keeps an eye on it until its worker joins.

Each start and create runs in a short-lived thread: Fly limits starts per machine, so many go out at once. Creates are
paced by a token bucket in Redis, which all clients of the app share; the fleet's thread asks `next_create` when it may.
Killed: reservations expire in Redis, and the next client's fleet starts the machines.
"""

import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from flyexecutor.errors import MachinesError
from flyexecutor.fleet import policy
from flyexecutor.fleet.api import MachinesClient, is_capacity, is_too_soon
from flyexecutor.fleet.creation import create_machine
from flyexecutor.fleet.ledger import OVERTAKEN, Ledger
from flyexecutor.fleet.lists import Lists
from flyexecutor.fleet.machine import Machine
from flyexecutor.lane import Lane
from flyexecutor.store.calls import Store

CREATE_EVERY = 1.0  # seconds, per app, with a burst of CREATE_BURST (Fly's documented rate limit)
CREATE_BURST = 3
REST_PATIENCE = 5.0  # seconds for a machine that is about to rest; then it is started, and who refuses says why
TOO_SOON_PAUSES = (0.5, 1.0, 2.0, 4.0, 4.0, 4.0)  # seconds between two starts: an image is fetched in some 6 and more

_Action = TypeVar("_Action", policy.Start, policy.Create, policy.Wake)

log = logging.getLogger("flyexecutor")


class Launcher:
    """Starts and creates the machines of one lane, and counts the threads that do so."""

    def __init__(
        self,
        store: Store,
        machines: MachinesClient,
        lists: Lists,
        lane: Lane,
        *,
        raised: Callable[[policy.Start | policy.Create | policy.Wake, BaseException], None],
        launched: Callable[[float], None],
        outdated: Callable[[MachinesError], None],
        troubled: Callable[[MachinesError, bool], None],
    ) -> None:
        self.lane = lane
        self.ledger = Ledger()
        self._store = store
        self._machines = machines
        self._lists = lists
        self._raised = raised  # what one of our threads has raised, and at what
        self._launched = launched  # Fly has taken a start or a create that was asked for at this time (monotonic)
        self._outdated = outdated  # a machine that was said to rest does not
        self._troubled = troubled  # something could not be had; whether that passes by itself
        self._closed = threading.Event()
        self._settled = threading.Condition()  # notified when less is under way

    def settle(self, timeout: float | None) -> bool:
        """Wait until every machine has been asked for and no thread of ours is left; False after so many seconds."""
        with self._settled:
            return self._settled.wait_for(lambda: not self.ledger.busy, timeout)

    def note_less(self) -> None:
        """Less is under way, perhaps: who waits in `settle` is to look."""
        with self._settled:
            self._settled.notify_all()

    # Starts

    def start(self, action: policy.Start) -> bool:
        """Start a machine for a reservation, in a thread. False: somebody else has it, and the reservation is free; or
        there is no reservation any longer.
        """
        machine = action.machine
        # Noted first: if the answer of assign is lost, this is given up like a start that came to nothing. Assigned
        # before it is started: two clients must not count on the same machine.
        self.ledger.boot(machine.id, machine.exit, time.monotonic())
        if not self._store.assign(self.lane, action.reservation, machine.id, reserved=True):
            self.ledger.forget(machine.id)
            self._store.release(self.lane, action.reservation)
            return False
        self.ledger.begin(action)
        self._in_thread(self._start, action)
        return True

    def _start(self, action: policy.Start) -> None:
        machine = action.machine
        try:
            if machine.state in policy.LEAVING:
                self._await_rest(machine)
            asked_at, _ = self._start_when_it_can(machine.id)
        except MachinesError as exc:
            passes = self.ledger.refuse(machine.id, exc, time.monotonic())
            self.forget(machine.id)
            self._troubled(exc, passes)
        else:
            self.ledger.accept(machine.id, time.monotonic())
            self._launched(asked_at)

    def expect(self, machine_ids: Iterable[str]) -> list[policy.Wake]:
        """These machines are ours to start: `wake` each."""
        actions = [policy.Wake(machine_id) for machine_id in machine_ids]
        for action in actions:
            self.ledger.boot(action.machine_id, None, time.monotonic(), seen=False)
            self.ledger.begin(action)
        return actions

    def wake(self, action: policy.Wake) -> None:
        """Start a machine that rests, by the word of its worker, in a thread."""
        self._in_thread(self._wake, action)

    def _wake(self, action: policy.Wake) -> None:
        machine_id = action.machine_id
        try:
            asked_at = self._start_unseen(machine_id)
        except MachinesError as exc:
            passes = self.ledger.refuse(machine_id, exc, time.monotonic())
            self.forget(machine_id)
            if passes:
                self._outdated(exc)
            else:
                self._troubled(exc, False)
        else:
            self.ledger.accept(machine_id, time.monotonic())
            self._launched(asked_at)

    def _start_unseen(self, machine_id: str) -> float:
        """Answers when it was asked for."""
        try:
            asked_at, before = self._start_when_it_can(machine_id)
            if before != "started":  # of what runs Fly takes a start, which does nothing
                return asked_at
        except MachinesError as exc:
            if exc.status not in OVERTAKEN or is_capacity(exc):
                raise
        # Its worker has just left, and what it does to rest takes a moment; or somebody has changed it since.
        machine = self._machines.get(machine_id)
        if machine is None or machine.lane != self.lane.name:
            raise MachinesError(f"machine {machine_id} is not of this lane any longer", 404)
        if machine.state in policy.LEAVING:
            self._await_rest(machine)
        elif machine.state not in policy.STARTABLE:
            raise MachinesError(f"machine {machine_id} is {machine.state}", 412)
        return self._start_when_it_can(machine_id)[0]

    def _start_when_it_can(self, machine_id: str) -> tuple[float, str]:
        """Answers when it was asked for, and in which state the machine was."""
        for pause in (*TOO_SOON_PAUSES, None):
            asked_at = time.monotonic()
            try:
                before = self._machines.start(machine_id)
            except MachinesError as exc:
                if pause is None or not is_too_soon(exc) or self._closed.wait(random.uniform(0.5, 1.0) * pause):
                    raise
            else:
                return asked_at, before
        raise AssertionError("unreachable")

    def _await_rest(self, machine: Machine) -> None:
        # One that still runs has just left, and is about to rest in its own way.
        suspends = machine.keeper and self.lane.suspends
        state = {"suspending": "suspended", "stopping": "stopped"}.get(machine.state)
        try:
            self._machines.wait(machine, state or ("suspended" if suspends else "stopped"), REST_PATIENCE)
        except MachinesError as exc:
            if exc.status != 408:
                raise
            seen = self._machines.get(machine.id)
            if self._store.is_worker(self.lane.name, machine.id):
                return  # somebody has started it meanwhile
            if seen and seen.state == "started":  # else it rests in the other way, or will: the start will tell
                # Fly takes a start of what runs, which does nothing. It hangs, or runs what Redis has forgotten.
                self.ledger.avoid(machine.id, time.monotonic())
                raise MachinesError(f"machine {machine.id} has left its lane and does not come to rest", 408) from None

    # Creates

    def next_create(self) -> float | None:
        """When `create_next` may be called (monotonic); None: nothing is to be created. Takes the moment in Redis."""
        return self.ledger.next_create(time.monotonic(), lambda: self._store.pace_create(CREATE_EVERY, CREATE_BURST))

    def create_next(self, *, needed: bool) -> None:
        """Create the machine that has waited longest, in a thread; or give its reservation back."""
        action = self.ledger.first
        # It may have waited for long. A Redis that was emptied meanwhile has granted others in its place. While Redis
        # is away it waits on: nobody else knows that it is ours.
        wanted = needed and self._store.is_counted_on(self.lane.name, action.reservation)
        self.ledger.take_create(wanted=wanted)
        if wanted:
            self._in_thread(self._create, action)
            return
        self.note_less()
        if not needed:
            self._store.release(self.lane, action.reservation)

    def _create(self, action: policy.Create) -> None:
        asked_at = time.monotonic()
        try:
            machine = self._create_somewhere(action)
        except MachinesError as exc:
            self._store.release(self.lane, action.reservation)
            self._troubled(exc, False)
            return
        self._launched(asked_at)
        try:
            assigned = self._store.assign(self.lane, action.reservation, machine.id)
        finally:
            # Not before: a look in between would find that it has joined.
            self.ledger.boot(machine.id, None, time.monotonic())
        if not assigned:
            self._store.release(self.lane, action.reservation)  # it has joined already

    def _create_somewhere(self, action: policy.Create) -> Machine:
        regions: Sequence[str | None] = [*self.lane.regions] or [None]
        create = functools.partial(create_machine, self._machines, self._lists, self.lane, action.reservation)
        for region in regions[:-1]:
            try:
                return create(region, keeper=action.keeper)
            except MachinesError as exc:
                if not is_capacity(exc):
                    raise
                log.info("no room in %s, trying the next region: %s", region, exc)
        return create(regions[-1], keeper=action.keeper)

    def close(self) -> None:
        """Ask for no start again."""
        self._closed.set()

    def forget(self, machine_id: str) -> None:
        """Count on this machine no longer."""
        self._store.release(self.lane, machine_id)  # first: while Redis is away it is still to be given up
        self.ledger.forget(machine_id)

    def _in_thread(self, work: Callable[[_Action], None], action: _Action) -> None:
        """Carry out an action that is under way in a thread of its own: until that has ended, in whatever way."""

        def run() -> None:
            try:
                work(action)
            except BaseException as exc:  # noqa: BLE001 - the fleet logs it
                self._raised(action, exc)
            finally:
                self.ledger.end(action)
                self.note_less()

        try:
            threading.Thread(target=run, name="flyexecutor launch", daemon=True).start()
        except (RuntimeError, MemoryError):
            run()  # the interpreter exits: from Python 3.12 on it starts no thread then, and waits for this one
