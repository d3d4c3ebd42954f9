"""Step 5: the fleet looks, asks the policy, and acts.

Owns a thread and the reservations that this client was granted. `start_soon` wakes it; while a call is pending it looks
again every few seconds, since no one else tells it of a lost machine; with none pending it is parked and sends nothing.
`close` ends it, and what it was granted is given back. Killed: its reservations expire, and the next client's fleet
starts the machines. One client of many looks for all of them; when it dies, its turn ends, and another takes it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from flyexecutor.errors import MachinesError, MachineStartError, RedisUnavailableError
from flyexecutor.fleet import policy
from flyexecutor.fleet.api import MachinesClient, is_capacity, is_transient
from flyexecutor.fleet.launch import Launcher
from flyexecutor.fleet.lists import Lists
from flyexecutor.fleet.machine import Exit, Machine
from flyexecutor.fleet.retirement import Retirement
from flyexecutor.lane import Lane
from flyexecutor.names import visible
from flyexecutor.store import outage
from flyexecutor.store.calls import Store
from flyexecutor.store.lanes import GIVE_UP_WITHIN, LaneLook

LOOK_EVERY = 5.0  # seconds; Fly allows one list a second per app, which all lanes and clients share
FIRST_CONTACT = 5.0  # seconds: an API that never answered is a wrong setting rather than an outage
OVERDUE = 3.0  # seconds after which a machine that was started is no longer at rest
UNWANTED_FOR = 20.0  # seconds that a machine runs for nobody: one that has just left its lane is about to rest
FIRST_PAUSE = 0.5  # seconds before the look that follows on a trouble; it doubles up to LOOK_EVERY

log = logging.getLogger("flyexecutor")


class Fleet:
    """The machines of one lane, as one client tends them."""

    def __init__(
        self,
        store: Store,
        machines: MachinesClient,
        lists: Lists,
        lane: Lane,
        *,
        client: str,
        known: Callable[[], Iterable[str]],
        needed: Callable[[], bool],
        failed: Callable[[Lane, MachineStartError], None],
    ) -> None:
        self.lane = lane  # its limits may change
        self._store = store
        self._machines = machines
        self._lists = lists
        self._client = client
        self._needed = needed
        self._failed = failed
        self._changed = threading.Condition()  # guards what follows
        self._owed: set[str] = set()  # reservations that calls were stored with and that a look has not seen to
        self._look_at = 0.0  # monotonic, as all times here; when the next look is due, while it is woken
        self._pause = FIRST_PAUSE
        self._woken = False
        self._closed = False
        self._wanted_at = 0.0  # when calls were last stored, or a reservation granted to us
        # What was stored until then has a worker, or a machine that Fly has accepted, or has ended.
        self._secured_at = 0.0
        # Why there is no machine yet; whoever has news sets it, as the next.
        self._obstacle: BaseException | None = None
        self._trouble_since: float | None = None
        self._ending_since: float | None = None  # machine after machine ends before its worker joins
        self._launcher = Launcher(
            store,
            machines,
            lists,
            lane,
            raised=self._launch_raised,
            ended=self._launch_ended,
            launched=self._launched,
            troubled=self._trouble,
        )
        self._retirement = Retirement(store, machines, client, known=known, ended=self._launch_ended)
        self._look_lock = f"look:{lane.name}"
        self._unwanted: dict[str, float] = {}  # machine -> since when each look finds that it runs for nobody
        self._reached = False
        self._looks = 0
        self._now = 0.0  # seconds since the epoch: when it last looked

    def start_soon(self, reservations: Sequence[str]) -> None:
        """Turn these reservations into machines, and see that pending calls have machines. Returns at once."""
        with self._changed:
            self._woken = True
            self._wanted_at = time.monotonic()
            if reservations:
                self._owed.update(reservations)
                self._look_at = self._wanted_at
            self._changed.notify_all()
        if self._closed:
            self._give_back()

    def watch(self) -> None:
        """See that calls have machines which clients with another ring have left here. Returns at once."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def change_lane(self, lane: Lane) -> None:
        """The limits of the lane have changed."""
        self.lane = lane
        with self._changed:
            self._look_at = 0.0
            self._changed.notify_all()

    def secure(self, timeout: float | None) -> None:
        """Return when a worker is there for what was stored so far, or Fly has accepted a machine for it: a worker does
        not leave while calls wait. Also when these calls have ended. What another client was granted is no machine yet.

        timeout: seconds; None: as long as a machine may take to boot. Raises MachineStartError that says what is so.
        """
        with self._changed:
            wanted_at = self._wanted_at
            if self._secured_at >= wanted_at:
                return
        try:
            asked_at = time.monotonic()
            if not self._see_worker() and self._store.has_no_calls(self.lane):
                self._secure(asked_at)  # they have ended, or their keys were those of calls in other lanes
        except RedisUnavailableError as exc:
            self._obstacle = exc
        with self._changed:
            patience = self.lane.boot_timeout + GIVE_UP_WITHIN if timeout is None else timeout
            self._changed.wait_for(lambda: self._closed or self._secured_at >= wanted_at, patience)
            if self._secured_at >= wanted_at:
                return
            raise MachineStartError(
                "the calls are stored, but no machine for them could be asked for yet "
                f"({self._obstacle or 'Fly has not answered'}): this client goes on trying as long as it lives; so "
                "does another of the app, once it submits or attaches to calls for the same machines"
            )

    def settle(self, timeout: float) -> bool:
        """Wait until every machine that is owed has been asked for; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._owed or self._launcher.busy), timeout)

    def close(self) -> None:
        """End the thread, once it has given back what it will not start."""
        with self._changed:
            self._closed = True
            self._launcher.close()
            self._retirement.close()
            self._changed.notify_all()

    def run(self) -> None:
        """The thread."""
        next_create: float | None = None
        while not self._closed:
            try:
                if not self._gather(next_create):
                    break
                if self._woken and time.monotonic() >= self._look_at:
                    self._tend()
                next_create = self._create()
            except BaseException as exc:  # noqa: BLE001 - calls wait for this thread, whatever it was
                next_create = self._stumble(exc)
                self._rest_until(next_create)
        with self._changed:
            self._owed.update(self._launcher.drop_creates())
            # Their threads use our connections.
            self._changed.wait_for(lambda: not (self._launcher.busy or self._retirement.busy))
        self._give_back()

    def _give_back(self) -> None:
        """Closed: let others start what we have not. What can't be given back now expires soon."""
        with self._changed:
            owed, self._owed = self._owed, set()
        try:
            for reservation in owed:
                self._store.release(self.lane, reservation)
        except RedisUnavailableError as exc:
            log.info("reservations were not given back: %s", exc)

    def _create(self) -> float | None:
        """Create what may be created now. Answers when the next may be."""
        while not self._closed and (wait := self._launcher.next_create()) is not None:
            if wait > 0:
                return time.monotonic() + wait
            self._launcher.create_next(self._needed())
        return None

    def _gather(self, next_create: float | None) -> bool:
        """Block until a look is due or a create may go out; False once closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._woken and not self._owed and not self._needed():
                    self._woken = False  # all calls have ended: parked until the next is sent
                    self._trouble_since, self._obstacle, self._pause = None, None, FIRST_PAUSE
                    self._ending_since = None
                    self._secure(now)
                due = [at for at in (self._look_at if self._woken else None, next_create) if at is not None]
                if due and min(due) <= now:
                    return True
                self._changed.wait(min(due) - now if due else None)
            return False

    def _tend(self) -> None:
        """Look, plan, act. What raises on the way is owed still: the next look finds it."""
        with self._changed:
            self._look_at = time.monotonic() + LOOK_EVERY
            owed = set(self._owed)
        self._looks += 1
        self._launcher.lane = self.lane
        # Before the list begins: what ends meanwhile is in the one or in the other.
        creating, starting = self._launcher.creating, self._launcher.starting
        under_way = {create.reservation for create in creating}
        began, boots = time.monotonic(), self._launcher.boots
        look = self._store.look(self.lane, f"{self._client}.look{self._looks}", [*owed, *under_way])
        dropped = self._launcher.keep_creates(look.starts)
        # Also those of earlier looks, which failed or whose answer was lost. What has expired was granted anew.
        ours = {name for name in look.starts if name in owed or name.startswith(f"{self._client}.look")}
        reservations = sorted(ours - under_way)
        if look.reservations:
            self._wanted_at = time.monotonic()
        if look.workers:
            self._ending_since = None
            self._secure(began)
        booting = self._launcher.booting(look.starts, boots)
        try:
            # One client looks for all, unless there is something to start: then each must see for itself.
            if reservations or booting or self._store.try_lock(self._look_lock, self._client, LOOK_EVERY * 0.9):
                creating = [create for create in creating if create not in dropped]
                self._plan(look, reservations, creating, starting, booting)
        except MachinesError as exc:
            for reservation in reservations:
                self._store.release(self.lane, reservation)
            self._trouble(exc)
        with self._changed:
            self._owed -= owed
            if look.due is not None:
                self._look_at = min(self._look_at, began + look.due)
            self._changed.notify_all()

    def _plan(
        self,
        look: LaneLook,
        reservations: Sequence[str],
        creating: Sequence[policy.Create],
        starting: frozenset[str],
        booting: dict[str, tuple[float, Exit | None]],
    ) -> None:
        of_the_app = self._lists.since(look.at)
        self._now = min(time.time(), look.at / 1000)  # one clock that is ahead buries and stops nothing
        machines = [machine for machine in of_the_app if machine.lane == self.lane.name]
        self._reached = True
        seen = policy.Snapshot(
            machines=machines,
            workers=look.workers,
            starts=look.starts,
            reservations=reservations,
            creating=creating,
            starting=starting,
            booting={machine_id: exit_before for machine_id, (_, exit_before) in booting.items()},
            max_workers=self.lane.max_workers,
            overdue=frozenset(name for name, (since, _) in booting.items() if time.monotonic() - since > OVERDUE),
            warm=self.lane.warm,
            avoid=self._launcher.avoid,
            now=self._now,
            patience=self.lane.boot_timeout,
        )
        actions, now = policy.plan(seen), time.monotonic()
        unwanted = [action.machine.id for action in actions if isinstance(action, policy.Stop)]
        self._unwanted = {machine_id: self._unwanted.get(machine_id, now) for machine_id in unwanted}
        again = [self._act(action) for action in actions]
        self._launcher.give_up_slow_boots(booting, machines)
        if any(again):
            with self._changed:
                self._look_at = 0.0
        self._retirement.search_soon(self.lane, of_the_app)

    def _act(self, action: policy.Action) -> bool:
        """Answers whether to look again at once."""
        match action:
            case policy.Start():
                return not self._launcher.start(action)  # somebody else has it: there may be another
            case policy.Create():
                self._launcher.create_soon(action)
            case policy.GiveBack(reservation):
                self._store.release(self.lane, reservation)
                self._obstacle = MachineStartError(
                    f"as many machines as max_workers allows ({self.lane.max_workers}) are awake already, and their "
                    "workers are not in Redis yet"
                )
                self._look_soon()
            case policy.Bury(machine_id, joined, machine):
                return self._bury(machine_id, joined, machine)
            case policy.GiveUp(machine_id, machine, again):
                gone, machine = self._is_gone(machine_id, machine)
                if not gone:
                    return False
                self._launcher.forget(machine_id)
                if machine and machine.exit is None:
                    what = f"did not begin ({machine.state})"
                else:
                    what = f"ended before its worker joined: {machine.exit if machine else 'it no longer exists'}"
                told = (
                    f"machine {machine_id} {what}; see its log (fly logs) and that the image runs python -m "
                    "flyexecutor.worker"
                )
                region = machine.region if machine else ""
                since = self._ending_since = self._ending_since or time.monotonic()
                again = again and time.monotonic() - since < self.lane.boot_timeout
                self._trouble(MachineStartError(told, phase="boot", region=region), passing=again)
                return again  # start it again
            case policy.Stop(machine) if time.monotonic() - self._unwanted[machine.id] > UNWANTED_FOR:
                log.warning("machine %s runs and has no worker: it is stopped", machine.id)
                self._launcher.forget(machine.id)
                self._launcher.stop(machine.id)
        return False

    def _bury(self, machine_id: str, joined: str, machine: Machine | None) -> bool:
        gone, machine = self._is_gone(machine_id, machine)
        if not gone:
            return False
        reason = "it no longer exists" if machine is None else f"it is {machine.state} ({machine.exit or 'no exit'})"
        oom = bool(machine and machine.exit and machine.exit.oom_killed)
        calls = self._store.bury(self.lane, machine_id, joined, reason, oom=oom)
        if calls < 0:
            return False  # it has left by itself while we looked
        log.warning("machine %s is gone: %s; its calls (%d) run again or are lost", machine_id, visible(reason), calls)
        return calls > 0

    def _is_gone(self, machine_id: str, listed: Machine | None) -> tuple[bool, Machine | None]:
        """Whether a machine that the list lacks is gone indeed, and what is known of it."""
        if listed is not None:
            return True, listed
        # A fresh machine may be missing in a list for a moment; a get that says 404 is certain.
        try:
            machine = self._machines.get(machine_id)
        except MachinesError as exc:
            log.warning("can't tell whether machine %s is gone: %s", machine_id, exc)
            return False, None
        return machine is None or machine.state in policy.GONE or policy.lost(machine, self._now), machine

    def _launched(self, asked_at: float) -> None:
        """Fly has accepted a machine."""
        self._trouble_since, self._obstacle, self._pause = None, None, FIRST_PAUSE
        self._secure(asked_at)

    def _launch_raised(self, reservation: str, raised: BaseException) -> None:
        with self._changed:
            self._owed.add(reservation)  # if Redis still has it
        self._stumble(raised)

    def _launch_ended(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _see_worker(self) -> bool:
        asked_at = time.monotonic()
        found = self._store.has_workers(self.lane)
        if found:
            self._secure(asked_at)
        return found

    def _secure(self, until: float) -> None:
        """Nothing that was stored until then depends on us any longer."""
        with self._changed:
            self._secured_at = max(self._secured_at, until)
            self._changed.notify_all()

    def _stumble(self, raised: BaseException) -> float:
        """A thread could not go on with what it did. Answers when to try again."""
        self._obstacle = raised
        if self._closed:
            pass  # its connections were closed, and perhaps the Redis
        elif isinstance(raised, RedisUnavailableError):
            outage.note(self._store.address, raised)
        else:
            log.error("the fleet of lane %s goes on after an error", self.lane.name, exc_info=raised)
        return self._look_soon()

    def _rest_until(self, moment: float) -> None:
        """Do nothing until then, unless a look is due before: what went wrong may go wrong again at once."""
        with self._changed:
            while not self._closed and (left := min(moment, self._look_at) - time.monotonic()) > 0:
                self._changed.wait(left)

    def _look_soon(self) -> float:
        """Something went wrong: look again after a pause, which grows. Answers when."""
        with self._changed:
            now = time.monotonic()
            soon = now + self._pause
            if not now < self._look_at <= soon:
                self._look_at, self._pause = soon, min(LOOK_EVERY, self._pause * 2)
                self._changed.notify_all()
            return soon

    def _trouble(self, error: MachinesError, passing: bool = False) -> None:
        """Something could not be had. Waiting calls fail once it is clear that waiting will not help."""
        if self._closed:
            return
        now = time.monotonic()
        since = self._trouble_since = self._trouble_since or now
        self._obstacle = error
        self._look_soon()
        never = isinstance(error, MachineStartError) and error.phase != "create"
        if passing or is_capacity(error) or (is_transient(error) and not never):
            patience = self.lane.boot_timeout if self._reached or error.status else FIRST_CONTACT
        else:
            patience = 0.0
        if now - since < patience or self._see_worker():
            log.warning("no machine yet, trying again: %s", error)
            return
        if not isinstance(error, MachineStartError):
            error = MachineStartError(f"no machine could be had: {error}", error.status, error.request_id)
        self._failed(self.lane, error)
        self._trouble_since = None
        self._secure(now)
