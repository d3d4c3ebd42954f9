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
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from flyexecutor.errors import MachinesError, MachineStartError
from flyexecutor.fleet import policy
from flyexecutor.fleet.api import MachinesClient, is_capacity, is_too_soon
from flyexecutor.fleet.config import config_of_machine
from flyexecutor.fleet.lists import Lists
from flyexecutor.fleet.machine import Exit, Machine
from flyexecutor.lane import Lane
from flyexecutor.store.calls import Store

CREATE_EVERY = 1.0  # seconds, per app, with a burst of CREATE_BURST (Fly's documented rate limit)
CREATE_BURST = 3
REST_PATIENCE = 5.0  # seconds for a machine that is about to rest; then it is started, and who refuses says why
AVOID_FOR = 60.0  # seconds: a machine whose host had no room, or that does not rest, or is not that far for longer than
TOO_SOON_PAUSES = (0.5, 1.0, 2.0, 4.0, 4.0, 4.0)  # seconds between two starts: an image is fetched in some 6 and more
# Of a start: the machine has gone, or is in another state than it was when we looked. The next look shows it.
OVERTAKEN = frozenset({404, 408, 409, 412})

_Action = TypeVar("_Action", policy.Start, policy.Create)

log = logging.getLogger("flyexecutor")


class Launcher:
    """The machines of one lane that this client is starting."""

    def __init__(
        self,
        store: Store,
        machines: MachinesClient,
        lists: Lists,
        lane: Lane,
        *,
        raised: Callable[[str, BaseException], None],
        ended: Callable[[], None],
        launched: Callable[[float], None],
        troubled: Callable[[MachinesError, bool], None],
    ) -> None:
        self.lane = lane
        self._store = store
        self._machines = machines
        self._lists = lists
        self._raised = raised  # what one of our threads has raised, and for which reservation
        self._ended = ended  # one of our threads has ended
        self._launched = launched  # Fly has taken a start or a create that was asked for at this time (monotonic)
        self._troubled = troubled  # something could not be had; whether that passes by itself
        self._closed = threading.Event()
        self._lock = threading.Lock()  # guards what follows
        self._booting: dict[str, tuple[float, Exit | None]] = {}  # machine -> when we started it, its exit before
        self._avoid: dict[str, float] = {}  # machine -> until when
        self._creates: deque[policy.Create] = deque()  # wait for their moment
        self._under_way: dict[str, policy.Start | policy.Create] = {}  # by reservation: each has a thread
        self._create_at: float | None = None  # the moment that was taken for the next create

    @property
    def busy(self) -> bool:
        """Whether a machine is still to be asked for."""
        with self._lock:
            return bool(self._under_way or self._creates)

    @property
    def creating(self) -> list[policy.Create]:
        """Creates that are under way or wait."""
        with self._lock:
            return [*(one for one in self._under_way.values() if isinstance(one, policy.Create)), *self._creates]

    @property
    def starting(self) -> frozenset[str]:
        """Machines whose start we ask for just now."""
        with self._lock:
            return frozenset(one.machine.id for one in self._under_way.values() if isinstance(one, policy.Start))

    @property
    def avoid(self) -> frozenset[str]:
        """Machines that could not be started just now."""
        now = time.monotonic()
        with self._lock:
            return frozenset(machine_id for machine_id, until in self._avoid.items() if until > now)

    @property
    def boots(self) -> frozenset[str]:
        """Machines that we started, whether they have joined or not."""
        with self._lock:
            return frozenset(self._booting)

    def booting(self, starts: frozenset[str], before: frozenset[str]) -> dict[str, tuple[float, Exit | None]]:
        """Machines that we started and that have not joined: a join takes a machine out of `starts`. Without those that
        Fly has not answered for.

        before: our boots before `starts` was looked at; one that was created meanwhile can't be in it.
        """
        with self._lock:
            self._booting = {m: since for m, since in self._booting.items() if m in starts or m not in before}
            booting = self._booting
        starting = self.starting
        return {machine_id: since for machine_id, since in booting.items() if machine_id not in starting}

    # Starts

    def start(self, action: policy.Start) -> bool:
        """Start a machine for a reservation, in a thread. False: somebody else has it, and the reservation is free; or
        there is no reservation any longer.
        """
        # Noted first: if the answer of assign is lost, this is given up like a start that came to nothing. Assigned
        # before it is started: two clients must not count on the same machine.
        self._note_boot(action.machine.id, action.machine.exit)
        if not self._store.assign(self.lane, action.reservation, action.machine.id, reserved=True):
            self._drop_boot(action.machine.id)
            self._store.release(self.lane, action.reservation)
            return False
        self._in_thread(self._start, action)
        return True

    def _start(self, action: policy.Start) -> None:
        machine = action.machine
        try:
            if machine.state in policy.LEAVING:
                self._await_rest(machine)
            asked_at = self._start_when_it_can(machine.id)
        except MachinesError as exc:
            if is_capacity(exc) or is_too_soon(exc):
                self._avoid_for_now(machine.id)
            self.forget(machine.id)
            self._troubled(exc, exc.status in OVERTAKEN)
        else:
            self._note_boot(machine.id, machine.exit)
            self._launched(asked_at)

    def _start_when_it_can(self, machine_id: str) -> float:
        """Answers when it was asked for."""
        for pause in (*TOO_SOON_PAUSES, None):
            asked_at = time.monotonic()
            try:
                self._machines.start(machine_id)
            except MachinesError as exc:
                if pause is None or not is_too_soon(exc) or self._closed.wait(random.uniform(0.5, 1.0) * pause):
                    raise
            else:
                return asked_at
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
            if seen and seen.state == "started":  # else it rests in the other way, or will: the start will tell
                # Fly takes a start of what runs, which does nothing. It hangs, or runs what Redis has forgotten.
                self._avoid_for_now(machine.id)
                raise MachinesError(f"machine {machine.id} has left its lane and does not come to rest", 408) from None

    def _avoid_for_now(self, machine_id: str) -> None:
        with self._lock:
            self._avoid[machine_id] = time.monotonic() + AVOID_FOR

    # Creates

    def create_soon(self, action: policy.Create) -> None:
        """Create a machine as soon as Fly's rate limit allows."""
        with self._lock:
            self._creates.append(action)

    def drop_creates(self) -> list[str]:
        """Create no more; answers the reservations of those that waited."""
        with self._lock:
            waiting, self._creates = self._creates, deque()
            return [action.reservation for action in waiting]

    def keep_creates(self, starts: frozenset[str]) -> list[policy.Create]:
        """Drop the creates whose reservation has expired: others have been granted in its place. Answers them."""
        with self._lock:
            dropped = [action for action in self._creates if action.reservation not in starts]
            self._creates = deque(action for action in self._creates if action.reservation in starts)
            return dropped

    def next_create(self) -> float | None:
        """Seconds until `create_next` may be called; None: nothing is to be created. Takes the moment in Redis."""
        with self._lock:
            if not self._creates:
                return None
            taken = self._create_at
        if taken is None:
            taken = time.monotonic() + self._store.pace_create(CREATE_EVERY, CREATE_BURST)
            self._create_at = taken
        return max(0.0, taken - time.monotonic())

    def create_next(self, needed: bool) -> None:
        """Create the machine that has waited longest, in a thread; or give its reservation back."""
        with self._lock:
            action = self._creates[0]
        # It may have waited for long. A Redis that was emptied meanwhile has granted others in its place. While Redis
        # is away it waits on: nobody else knows that it is ours.
        wanted = needed and self._store.is_counted_on(self.lane.name, action.reservation)
        with self._lock:
            self._creates.popleft()
            self._create_at = None
        if wanted:
            self._in_thread(self._create, action)
        elif not needed:
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
            self._note_boot(machine.id, None)  # not before: a look in between would find that it has joined
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

    # Boots

    def give_up_slow_boots(self, booting: dict[str, tuple[float, Exit | None]], machines: Iterable[Machine]) -> None:
        """Give up the machines whose worker has not joined within `boot_timeout`.

        One that Fly has not begun to run is no fault of the image: another takes its place.
        """
        not_begun = {machine.id: machine for machine in machines if machine.state in policy.NOT_BEGUN}
        now = time.monotonic()
        for machine_id, (since, _) in booting.items():
            if now - since <= self.lane.boot_timeout or self._store.is_worker(self.lane.name, machine_id):
                continue
            self.forget(machine_id)
            if machine := not_begun.get(machine_id):
                if machine.prepared:
                    self._avoid_for_now(machine_id)  # somebody has asked for it
                else:
                    self._destroy(machine_id)
                told = (
                    f"machine {machine_id} is still {machine.state} after {self.lane.boot_timeout:g} s (boot_timeout)"
                )
                self._troubled(MachineStartError(told, phase="boot", region=machine.region), True)
                continue
            self.stop(machine_id)
            told = (
                f"the worker of machine {machine_id} did not join within {self.lane.boot_timeout:g} s (boot_timeout): "
                "see its log (fly logs) and that it can reach Redis (REDIS_URL)"
            )
            self._troubled(MachineStartError(told, phase="join"), False)

    def stop(self, machine_id: str) -> None:
        """Stop a machine that costs money for nothing."""
        try:
            self._machines.stop(machine_id)
        except MachinesError as exc:
            log.warning("machine %s could not be stopped: %s", machine_id, exc)

    def _destroy(self, machine_id: str) -> None:
        try:
            self._machines.destroy(machine_id)  # not by force: one that runs at last is refused
        except MachinesError as exc:
            log.info("machine %s was given up and stays for now: %s", machine_id, exc)

    def close(self) -> None:
        """Ask for no start again."""
        self._closed.set()

    def forget(self, machine_id: str) -> None:
        """Count on this machine no longer."""
        self._store.release(self.lane, machine_id)  # first: while Redis is away it is still to be given up
        self._drop_boot(machine_id)

    def _drop_boot(self, machine_id: str) -> None:
        with self._lock:
            self._booting = {name: since for name, since in self._booting.items() if name != machine_id}

    def _note_boot(self, machine_id: str, exit_before: Exit | None) -> None:
        with self._lock:
            self._booting = {**self._booting, machine_id: (time.monotonic(), exit_before)}

    def _in_thread(self, work: Callable[[_Action], None], action: _Action) -> None:
        """Carry out an action in a thread of its own; it is under way until that has ended, in whatever way."""

        def run() -> None:
            try:
                work(action)
            except BaseException as exc:  # noqa: BLE001 - the fleet logs it
                self._raised(action.reservation, exc)
            finally:
                self._end(action)
                self._ended()

        with self._lock:
            self._under_way[action.reservation] = action
        try:
            threading.Thread(target=run, name="flyexecutor launch", daemon=True).start()
        except (RuntimeError, MemoryError):
            run()  # the interpreter exits: from Python 3.12 on it starts no thread then, and waits for this one

    def _end(self, action: policy.Start | policy.Create) -> None:
        with self._lock:
            del self._under_way[action.reservation]


def create_machine(
    machines: MachinesClient,
    lists: Lists,
    lane: Lane,
    name: str,
    region: str | None,
    *,
    keeper: bool,
    launch: bool = True,
    prepared: bool = False,
) -> Machine:
    """Create a machine of a lane, with a free volume if it needs one. Raises MachineStartError that says where."""
    full_name = policy.name_machine(lane.name, name)

    def create(volume_id: str | None, region: str | None) -> Machine:
        config = config_of_machine(lane, keeper=keeper, volume_id=volume_id, prepared=prepared, launch=launch)
        return create_once(machines, lists, lane, full_name, config, region, launch=launch)

    mounts = lane.config.get("mounts")
    try:
        return _with_volume(machines, mounts[0]["volume"], region, create) if mounts else create(None, region)
    except MachinesError as exc:
        where = f" in {region}" if region else ""
        raise MachineStartError(
            f"no machine could be created{where}: {exc}",
            exc.status,
            exc.request_id,
            phase="create",
            region=region or "",
        ) from None


def create_once(
    machines: MachinesClient,
    lists: Lists,
    lane: Lane,
    name: str,
    config: Mapping[str, Any],
    region: str | None,
    *,
    launch: bool = True,
) -> Machine:
    """Create a machine; if nobody can say whether that was carried out, look for it by its name."""
    try:
        return machines.create(name, config, region, lane.name, launch=launch)
    except MachinesError as exc:
        if exc.status is None or exc.status >= 500:
            for machine in lists.since():
                if (machine.name, machine.lane) == (name, lane.name):
                    return machine
        raise


def _with_volume(
    machines: MachinesClient, volume: str, region: str | None, create: Callable[[str, str], Machine]
) -> Machine:
    free = list(machines.free_volumes(volume, region))
    random.shuffle(free)  # others create at the same time: take another than they do
    for volume_id, its_region in free:
        try:
            return create(volume_id, its_region)
        except MachinesError as exc:
            if exc.status != 412:
                raise
            log.info("volume %s was taken meanwhile: %s", volume_id, exc)
    where = f" in {region}" if region else ""
    raise MachinesError(f"insufficient volumes: none named {volume!r} is free{where}: fly volumes create {volume}", 422)
