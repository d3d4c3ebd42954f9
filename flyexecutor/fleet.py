"""Step 5: the fleet looks, asks the policy, and acts. Level 5.

Owns a thread, the reservations that this client was granted, and the machines that it is starting. `start_soon` wakes
it; while a call is pending it looks again every few seconds, since no one else tells it of a lost machine; with none
pending it is parked and sends nothing. `close` ends it. Killed: its reservations expire, and the next client's fleet
starts the machines. Creates go out one at a time from this thread (Fly allows one a second per app); starts, which are
limited per machine, each from a short-lived thread of their own.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from flyexecutor import policy
from flyexecutor.errors import MachinesError, MachineStartError, RedisUnavailableError
from flyexecutor.lane import Exit, Lane, Machine
from flyexecutor.machines import MachinesClient, is_capacity, is_transient
from flyexecutor.store import Store

LOOK_EVERY = 5.0  # seconds; Fly allows one list a second per app, and all clients share it
FIRST_CONTACT = 5.0  # seconds: an API that never answered is a wrong setting rather than an outage
STOP_PATIENCE = 30.0
# Of a start: the machine has gone, or is in another state than it was when we looked. The next look shows it.
OVERTAKEN = frozenset({404, 408, 409, 412})

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
        self._store = store
        self._machines = machines
        self._lane = lane
        self._client = client
        self._needed = needed
        self._failed = failed
        self._changed = threading.Condition()  # guards the four below
        self._owed: list[str] = []
        self._acting = 0  # this thread while it works, and those that start a machine
        self._woken = False
        self._closed = False
        self._lock = threading.Lock()  # guards _booting, which the starting threads change too
        self._booting: dict[str, tuple[float, Exit | None]] = {}  # machine -> when we started it, its exit before
        self._trouble_since: float | None = None  # whoever has news sets it; the last word counts
        self._creates: deque[str] = deque()  # reservations; this thread's own
        self._reached = False
        self._looks = 0

    def start_soon(self, reservations: Sequence[str]) -> None:
        """Turn these reservations into machines, and see that pending calls have machines. Returns at once."""
        with self._changed:
            self._owed.extend(reservations)
            self._woken = True
            self._changed.notify_all()

    def settle(self, timeout: float) -> bool:
        """Wait until every machine that is owed has been asked for; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._owed or self._creates or self._acting), timeout)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def run(self) -> None:
        """The thread."""
        next_look = 0.0
        while (owed := self._gather(next_look)) is not None:
            try:
                if owed or time.monotonic() >= next_look:
                    next_look = time.monotonic() + LOOK_EVERY
                    next_look = min(next_look, time.monotonic() + self._tend(owed))
                self._create_one()
            except RedisUnavailableError as exc:
                if not self._closed:  # else its connections were closed, and perhaps the Redis
                    log.warning("the fleet waits: %s", exc)
            self._acted()

    def _acted(self) -> None:
        with self._changed:
            self._acting -= 1
            self._changed.notify_all()

    def _gather(self, next_look: float) -> list[str] | None:
        """Block until machines are owed, a look is due or a create waits; None once closed."""
        with self._changed:
            while not self._closed and not self._owed and not self._creates:
                if self._woken and not self._needed():
                    self._woken = False  # all calls have ended: parked until the next is sent
                    self._trouble_since = None
                left = next_look - time.monotonic()
                if self._woken and left <= 0:
                    break
                self._changed.wait(left if self._woken else None)
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
        look = self._store.look(self._lane, f"{self._client}.look{self._looks}", [*owed, *self._creates])
        due = LOOK_EVERY if look.due is None else look.due
        reservations = [*owed, *look.reservations]
        with self._lock:
            # A join takes the machine out of `starts`: whoever is no longer there has joined, and may have left.
            booting = self._booting = {name: since for name, since in self._booting.items() if name in look.starts}
        try:
            # One client looks for all, unless there is something to start: then each must see for itself.
            if not (reservations or booting or self._store.try_lock("look", self._client, LOOK_EVERY * 0.9)):
                return due
            machines = self._machines.list(self._lane.name)
        except MachinesError as exc:
            for reservation in reservations:
                self._store.release(self._lane, reservation)
            self._troubled(exc)
            return due
        self._reached = True
        seen = policy.Snapshot(
            machines=machines,
            workers=look.workers,
            starts=look.starts,
            reservations=reservations,
            creating=len(self._creates),
            booting={machine_id: exit_before for machine_id, (_, exit_before) in booting.items()},
            max_workers=self._lane.max_workers,
        )
        freed = [self._act(action) for action in policy.plan(seen)]
        self._give_up_slow_boots(booting)
        return 0.0 if any(freed) else due

    def _act(self, action: policy.Action) -> bool:
        """Answers whether calls were freed."""
        match action:
            case policy.Start(reservation, machine):
                # Assigned before it is started: two clients must not count on the same machine.
                if self._store.assign(self._lane, reservation, machine.id):
                    self._note_boot(machine.id, machine.exit)
                    with self._changed:
                        self._acting += 1
                    threading.Thread(
                        target=self._start, args=(machine,), name=f"flyexecutor start {machine.id}", daemon=True
                    ).start()
                else:
                    self._store.release(self._lane, reservation)
            case policy.Create(reservation):
                self._creates.append(reservation)
            case policy.Bury(machine_id, joined, machine):
                return self._bury(machine_id, joined, machine)
            case policy.GiveUp(machine):
                self._forget(machine.id)
                self._troubled(
                    MachineStartError(
                        f"machine {machine.id} in {machine.region} ended before its worker joined: {machine.exit}; see "
                        "its log (fly logs) and that the image runs python -m flyexecutor.worker"
                    )
                )
        return False

    def _start(self, machine: Machine) -> None:
        try:
            if machine.state in policy.LEAVING:
                self._machines.wait_stopped(machine, STOP_PATIENCE)
            self._machines.start(machine.id)
            self._trouble_since = None
        except MachinesError as exc:
            try:
                self._forget(machine.id)
                self._troubled(exc, passing=exc.status in OVERTAKEN)
            except RedisUnavailableError as unavailable:
                log.warning("a machine's reservation stays until it expires: %s", unavailable)
        finally:
            self._acted()

    def _create_one(self) -> None:
        if not self._creates:
            return
        reservation = self._creates.popleft()
        if not self._needed():
            self._store.release(self._lane, reservation)
            return
        try:
            machine = self._create(reservation)
        except MachinesError as exc:
            self._store.release(self._lane, reservation)
            self._troubled(exc)
            return
        self._trouble_since = None
        self._note_boot(machine.id, None)
        if not self._store.assign(self._lane, reservation, machine.id):
            self._store.release(self._lane, reservation)  # it has joined already

    def _create(self, reservation: str) -> Machine:
        # Fly: the name is unique within the app, which makes it the idempotency key of a create.
        name = f"fx-{self._lane.name}-{reservation.replace('.', '-').replace(':', '-')}"
        regions: Sequence[str | None] = [*self._lane.regions] or [None]
        for region in regions[:-1]:
            try:
                return self._machines.create(name, self._lane.config, region, self._lane.name)
            except MachinesError as exc:
                if not is_capacity(exc):
                    raise
                log.info("no room in %s, trying the next region: %s", region, exc)
        return self._machines.create(name, self._lane.config, regions[-1], self._lane.name)

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
        calls = self._store.bury(self._lane, machine_id, joined, reason, oom=oom)
        log.warning("machine %s is gone: %s; its calls (%d) run again or are lost", machine_id, reason, calls)
        return calls > 0

    def _give_up_slow_boots(self, booting: dict[str, tuple[float, Exit | None]]) -> None:
        now = time.monotonic()
        for machine_id, (since, _) in booting.items():
            if now - since <= self._lane.boot_timeout:
                continue
            self._forget(machine_id)
            try:
                self._machines.stop(machine_id)  # or it would cost money for nothing
            except MachinesError as exc:
                log.warning("machine %s could not be stopped: %s", machine_id, exc)
            self._troubled(
                MachineStartError(
                    f"the worker of machine {machine_id} did not join within {self._lane.boot_timeout:g} s: see its "
                    "log (fly logs) and that it can reach Redis (REDIS_URL)"
                )
            )

    def _note_boot(self, machine_id: str, exit_before: Exit | None) -> None:
        with self._lock:
            self._booting = {**self._booting, machine_id: (time.monotonic(), exit_before)}

    def _forget(self, machine_id: str) -> None:
        with self._lock:
            self._booting = {name: since for name, since in self._booting.items() if name != machine_id}
        self._store.release(self._lane, machine_id)

    def _troubled(self, error: MachinesError, *, passing: bool = False) -> None:
        """Something could not be had. Waiting calls fail once it is clear that waiting will not help."""
        if self._closed:
            return
        now = time.monotonic()
        since = self._trouble_since = self._trouble_since or now
        if passing or is_capacity(error) or (is_transient(error) and not isinstance(error, MachineStartError)):
            patience = self._lane.boot_timeout if self._reached or error.status else FIRST_CONTACT
        else:
            patience = 0.0
        if now - since < patience or self._store.has_workers(self._lane):
            log.warning("no machine yet, trying again: %s", error)
            return
        if not isinstance(error, MachineStartError):
            error = MachineStartError(f"no machine could be had: {error}", error.status, error.request_id)
        self._trouble_since = None
        self._failed(self._lane, error)
