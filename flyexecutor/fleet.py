"""Step 5: the fleet looks, asks the policy, and acts. Level 5.

Owns a thread and the reservations that this client was granted. `start_soon` wakes it; while a call is pending it looks
again every few seconds, since no one else tells it of a lost machine; with none pending it is parked and sends nothing.
`close` ends it. Killed: its reservations expire, and the next client's fleet starts the machines. One client of many
looks for all of them; when it dies, its turn ends, and another takes it.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from flyexecutor import policy
from flyexecutor.errors import MachinesError, MachineStartError, RedisUnavailableError
from flyexecutor.lane import FAMILY_KEY, Lane, Machine
from flyexecutor.launch import Launcher
from flyexecutor.machines import MachinesClient, is_capacity, is_transient
from flyexecutor.store import Store

LOOK_EVERY = 5.0  # seconds; Fly allows one list a second per app, and all clients share it
FIRST_CONTACT = 5.0  # seconds: an API that never answered is a wrong setting rather than an outage
OVERDUE = 3.0  # seconds after which a machine that was started is no longer at rest
RETIRE_EVERY = 300.0  # seconds between two searches for machines of an earlier configuration
UNUSED = 600.0  # seconds without a call, after which a lane of an earlier configuration is not used any longer

log = logging.getLogger("flyexecutor")


class Fleet:
    """The machines of one lane, as one client tends them."""

    def __init__(
        self,
        store: Store,
        machines: MachinesClient,
        lane: Lane,
        *,
        client: str,
        needed: Callable[[], bool],
        failed: Callable[[Lane, MachineStartError], None],
    ) -> None:
        self.lane = lane  # its limits may change
        self._store = store
        self._machines = machines
        self._client = client
        self._needed = needed
        self._failed = failed
        self._changed = threading.Condition()  # guards the five below
        self._owed: list[str] = []
        self._look_now = False  # the limits have changed
        self._acting = 0  # this thread while it works, and those that start a machine
        self._woken = False
        self._closed = False
        self._trouble_since: float | None = None  # whoever has news sets it; the last word counts
        self._launcher = Launcher(
            store, machines, lane, done=self._acted, launched=self._forget_trouble, troubled=self._launch_failed
        )
        self._look_lock = f"look:{lane.name}"
        self._reached = False
        self._looks = 0

    def start_soon(self, reservations: Sequence[str]) -> None:
        """Turn these reservations into machines, and see that pending calls have machines. Returns at once."""
        with self._changed:
            self._owed.extend(reservations)
            self._woken = True
            self._changed.notify_all()

    def change_lane(self, lane: Lane) -> None:
        """The limits of the lane have changed."""
        self.lane = lane
        with self._changed:
            self._look_now = self._woken
            self._changed.notify_all()

    def settle(self, timeout: float) -> bool:
        """Wait until every machine that is owed has been asked for; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._owed or self._acting or self._launcher.creating), timeout)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def run(self) -> None:
        """The thread."""
        next_look = 0.0
        next_create: float | None = None
        while (owed := self._gather(next_look, next_create)) is not None:
            try:
                if owed or self._look_now or time.monotonic() >= next_look:
                    self._look_now = False
                    next_look = time.monotonic() + LOOK_EVERY
                    next_look = min(next_look, time.monotonic() + self._tend(owed))
                next_create = self._create()
            except RedisUnavailableError as exc:
                if not self._closed:  # else its connections were closed, and perhaps the Redis
                    log.warning("the fleet waits: %s", exc)
            self._acted()

    def _create(self) -> float | None:
        """Create what may be created now. Answers when the next may be (monotonic)."""
        while (wait := self._launcher.next_create()) is not None:
            if wait > 0:
                return time.monotonic() + wait
            with self._changed:
                self._acting += 1
            needed = self._needed()
            self._launcher.create_next(needed)
            if not needed:
                self._acted()
        return None

    def _acted(self) -> None:
        with self._changed:
            self._acting -= 1
            self._changed.notify_all()

    def _gather(self, next_look: float, next_create: float | None) -> list[str] | None:
        """Block until machines are owed, a look is due or a create may go out; None once closed."""
        with self._changed:
            while not self._closed and not self._owed and not self._look_now:
                if self._woken and not self._needed():
                    self._woken = False  # all calls have ended: parked until the next is sent
                    self._trouble_since = None
                due = [at for at in (next_look if self._woken else None, next_create) if at is not None]
                left = min(due) - time.monotonic() if due else None
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            if self._closed:
                return None
            owed, self._owed = self._owed, []
            self._acting += 1
            return owed

    def _tend(self, owed: Sequence[str]) -> float:
        """Look, plan, act. Answers the seconds after which to look again: 0 if calls of a lost machine are queued
        again, else when a call is due.
        """
        self._looks += 1
        self._launcher.lane = self.lane
        held = [*owed, *(create.reservation for create in self._launcher.creating)]
        boots = self._launcher.boots
        look = self._store.look(self.lane, f"{self._client}.look{self._looks}", held)
        due = LOOK_EVERY if look.due is None else look.due
        reservations = [*owed, *look.reservations]
        booting = self._launcher.booting(look.starts, boots)
        try:
            # One client looks for all, unless there is something to start: then each must see for itself.
            if not (reservations or booting or self._store.try_lock(self._look_lock, self._client, LOOK_EVERY * 0.9)):
                return due
            asked_before = self._launcher.creating
            machines = self._machines.list(self.lane.name)
            self._retire()
        except MachinesError as exc:
            for reservation in reservations:
                self._store.release(self.lane, reservation)
            self._trouble(exc)
            return due
        self._reached = True
        # One that has just been created may be in the list already: counted once.
        listed = {machine.name for machine in machines}
        creating = [
            create for create in asked_before if policy.name_machine(self.lane.name, create.reservation) not in listed
        ]
        seen = policy.Snapshot(
            machines=machines,
            workers=look.workers,
            starts=look.starts,
            reservations=reservations,
            creating=len(creating),
            creating_keepers=sum(create.keeper for create in creating),
            booting={machine_id: exit_before for machine_id, (_, exit_before) in booting.items()},
            max_workers=self.lane.max_workers,
            overdue=frozenset(name for name, (since, _) in booting.items() if time.monotonic() - since > OVERDUE),
            warm=self.lane.warm,
            avoid=self._launcher.avoid,
            now=time.time(),
            patience=self.lane.boot_timeout,
        )
        freed = [self._act(action) for action in policy.plan(seen)]
        self._launcher.give_up_slow_boots(booting)
        return 0.0 if any(freed) else due

    def _act(self, action: policy.Action) -> bool:
        """Answers whether to look again at once."""
        match action:
            case policy.Start():
                with self._changed:
                    self._acting += 1
                if not self._launcher.start(action):
                    self._acted()
            case policy.Create():
                self._launcher.create_soon(action)
            case policy.Bury(machine_id, joined, machine):
                return self._bury(machine_id, joined, machine)
            case policy.GiveUp(machine_id, machine, again):
                self._launcher.forget(machine_id)
                end = machine.exit if machine else "it no longer exists"
                told = (
                    f"machine {machine_id} ended before its worker joined: {end}; see its log (fly logs) and that the "
                    "image runs python -m flyexecutor.worker"
                )
                region = machine.region if machine else ""
                self._trouble(MachineStartError(told, phase="boot", region=region), passing=again)
                return again  # start it again
            case policy.Stop(machine):
                log.warning("machine %s runs and has no worker: it is stopped", machine.id)
                self._launcher.forget(machine.id)
                self._launcher.stop(machine.id)
        return False

    def _bury(self, machine_id: str, joined: str, machine: Machine | None) -> bool:
        if machine is None:
            # A fresh machine may be missing in a list for a moment; a get that says 404 is certain.
            try:
                machine = self._machines.get(machine_id)
            except MachinesError as exc:
                log.warning("can't tell whether machine %s is gone: %s", machine_id, exc)
                return False
            if machine is not None and machine.state not in policy.GONE:
                return False
        reason = "it no longer exists" if machine is None else f"it is {machine.state} ({machine.exit or 'no exit'})"
        oom = bool(machine and machine.exit and machine.exit.oom_killed)
        calls = self._store.bury(self.lane, machine_id, joined, reason, oom=oom)
        log.warning("machine %s is gone: %s; its calls (%d) run again or are lost", machine_id, reason, calls)
        return calls > 0

    def _retire(self) -> None:
        """After a deploy: destroy the machines of earlier configurations, once they rest and nobody uses their lane."""
        family = self.lane.config["metadata"][FAMILY_KEY]
        if not self._store.try_lock(f"retire:{family}", self._client, RETIRE_EVERY):
            return
        used = frozenset({self.lane.name, *self._store.lanes_since(UNUSED)})
        for machine in policy.retire(self._machines.list_all(), family, used):
            log.info("machine %s is of an earlier configuration and is destroyed", machine.id)
            self._machines.destroy(machine.id)

    def _forget_trouble(self) -> None:
        self._trouble_since = None

    def _launch_failed(self, error: MachinesError, passing: bool) -> None:
        try:
            self._trouble(error, passing=passing)
        except RedisUnavailableError as exc:
            log.warning("the fleet waits: %s", exc)

    def _trouble(self, error: MachinesError, *, passing: bool = False) -> None:
        """Something could not be had. Waiting calls fail once it is clear that waiting will not help."""
        if self._closed:
            return
        now = time.monotonic()
        since = self._trouble_since = self._trouble_since or now
        never = isinstance(error, MachineStartError) and error.phase != "create"
        if passing or is_capacity(error) or (is_transient(error) and not never):
            patience = self.lane.boot_timeout if self._reached or error.status else FIRST_CONTACT
        else:
            patience = 0.0
        if now - since < patience or self._store.has_workers(self.lane):
            log.warning("no machine yet, trying again: %s", error)
            return
        if not isinstance(error, MachineStartError):
            error = MachineStartError(f"no machine could be had: {error}", error.status, error.request_id)
        self._trouble_since = None
        self._failed(self.lane, error)
