"""Step 5: the fleet looks, asks the policy, and acts.

Owns a thread and the reservations that this client was granted. `start_soon` wakes it; while a call is pending it looks
again every few seconds, since no one else tells it of a lost machine; with none pending it is parked and sends nothing.
`close` ends it, and what it was granted is given back. Killed: its reservations expire, and the next client's fleet
starts the machines. One client of many looks for all of them; when it dies, its turn ends, and another takes it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from flyexecutor.errors import MachinesError, MachineStartError, RedisUnavailableError
from flyexecutor.fleet import policy
from flyexecutor.fleet.api import MachinesClient
from flyexecutor.fleet.assurance import Assurance
from flyexecutor.fleet.launch import Launcher
from flyexecutor.fleet.lists import Lists
from flyexecutor.fleet.losses import Losses
from flyexecutor.fleet.retirement import Retirement
from flyexecutor.fleet.turns import Heard, Turns
from flyexecutor.lane import Lane
from flyexecutor.store import outage
from flyexecutor.store.calls import Granted, Store
from flyexecutor.store.lanes import GIVE_UP_WITHIN

log = logging.getLogger("flyexecutor")


class Fleet:
    """The machines of one lane, as one client tends them. Its attributes are many since it wires what looks, starts and
    ends machines.
    """

    def __init__(
        self,
        store: Store,
        machines: MachinesClient,
        lists: Lists,
        lane: Lane,
        *,
        client: str,
        known: Callable[[], Iterable[str]],
        busy_since: Callable[[], float | None],
        is_vouched: Callable[[str, str, str], bool],
        failed: Callable[[Lane, MachineStartError], None],
    ) -> None:
        self.lane = lane  # its limits may change
        self._store = store
        self._lists = lists
        self._busy_since = busy_since  # since when calls of this client were always pending (monotonic); None: none is
        self._is_vouched = is_vouched  # whether a machine is one of the lane, by this proof
        self._failed = failed
        self._changed = threading.Condition()  # guards what is owed and the pace of the turns, and the next
        self._closed = False
        self._assurance = Assurance(store, self._changed)
        self._turns = Turns(client)
        self._launcher = Launcher(
            store,
            machines,
            lists,
            lane,
            raised=self._launch_raised,
            launched=self._launched,
            outdated=self._launch_outdated,
            troubled=self._trouble,
        )
        self._losses = Losses(store, machines, self._launcher, self._turns, troubled=self._trouble)
        self._retirement = Retirement(store, machines, client, known=known)

    def start_soon(self, granted: Granted) -> None:
        """Start what calls were stored with, and see that pending calls have machines. Returns at once."""
        resting = [machine_id for machine_id, proof in granted.resting if self._rests(machine_id, proof)]
        # That is a reservation like others, with an odd name.
        refused = [machine_id for machine_id, _ in granted.resting if machine_id not in resting]
        unserved = granted.waits and not granted.reservations and not granted.resting
        with self._changed:
            now = time.monotonic()
            self._assurance.want(now)
            owed = [*granted.reservations, *refused, *(resting if self._closed else ())]
            self._turns.part_busy_times(self._launcher.ledger, self._busy_since())
            self._turns.start_soon(owed, now, at_once=unserved)
            wakes = [] if self._closed else self._launcher.expect(resting)
            self._changed.notify_all()
        for action in wakes:
            self._launcher.wake(action)  # here and now: a request waits for it
        if self._closed:
            self._give_back()

    def _rests(self, machine_id: str, proof: str) -> bool:
        """Whether a worker of ours has said so."""
        vouched = self._is_vouched(self.lane.name, machine_id, proof)
        if not vouched:
            log.warning(
                "machine %s is not started: Redis has it among those that rest, and no worker of ours", machine_id
            )
        return vouched

    def watch(self) -> None:
        """See that calls have machines which clients with another ring have left here. Returns at once."""
        with self._changed:
            self._turns.pace.wake(time.monotonic(), at_once=True)
            self._changed.notify_all()

    def tend(self) -> None:
        """See that a call has a machine that somebody else has left here, and that is ours now. Returns at once."""
        with self._changed:
            now = time.monotonic()
            self._assurance.want(now)
            self._turns.part_busy_times(self._launcher.ledger, self._busy_since())
            self._turns.start_soon((), now)
            self._changed.notify_all()

    def change_lane(self, lane: Lane) -> None:
        """The limits of the lane have changed."""
        self.lane = lane
        self._look_at_once()

    def secure(self, timeout: float | None) -> None:
        """Return when a worker is there for what was stored so far, or Fly has accepted a machine for it: a worker does
        not leave while calls wait. Also when these calls have ended. What another client was granted is no machine yet.

        timeout: seconds; None: as long as a machine may take to boot. Raises MachineStartError that says what is so.
        """
        wanted_at = self._assurance.wanted_at
        if self._assurance.covers(wanted_at):
            return
        try:
            self._assurance.see(self.lane)
        except RedisUnavailableError as exc:
            self._turns.troubles.obstacle = exc
        patience = self.lane.boot_timeout + GIVE_UP_WITHIN if timeout is None else timeout
        if not self._assurance.wait(wanted_at, patience, lambda: self._closed):
            raise MachineStartError(
                "the calls are stored, but no machine for them could be asked for yet "
                f"({self._turns.troubles.obstacle or 'Fly has not answered'}): this client goes on trying as long as "
                "it lives; so does another of the app, once it submits or attaches to calls for the same machines"
            )

    def settle(self, timeout: float) -> bool:
        """Wait until every machine that is owed has been asked for; False after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self._await_nothing_owed(deadline) and self._launcher.settle(max(0.0, deadline - time.monotonic())):
            with self._changed:
                if not self._turns.owed:  # what a launch could not do is owed again
                    return True
        return False

    def _await_nothing_owed(self, deadline: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._turns.owed, max(0.0, deadline - time.monotonic()))

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
                if self._turns.pace.is_due(time.monotonic()):
                    self._tend()
                next_create = self._create()
            except BaseException as exc:  # noqa: BLE001 - calls wait for this thread, whatever it was
                next_create = self._stumble(exc)
                self._rest_until(next_create)
        with self._changed:
            self._turns.owed.update(self._launcher.ledger.drop_creates())
        self._launcher.note_less()
        # Their threads use our connections.
        self._launcher.settle(None)
        self._retirement.join()
        self._give_back()

    def _give_back(self) -> None:
        """Closed: let others start what we have not. What can't be given back now expires soon."""
        with self._changed:
            owed, self._turns.owed = self._turns.owed, set()
            self._changed.notify_all()
        try:
            for reservation in owed:
                self._store.release(self.lane, reservation)
        except RedisUnavailableError as exc:
            log.info("reservations were not given back: %s", exc)

    def _create(self) -> float | None:
        """Create what may be created now. Answers when the next may be."""
        while not self._closed and (create_at := self._launcher.next_create()) is not None:
            if create_at > time.monotonic():
                return create_at
            self._launcher.create_next(needed=self._busy_since() is not None)
        return None

    def _gather(self, next_create: float | None) -> bool:
        """Block until a look is due or a create may go out; False once closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._turns.park(self._launcher.ledger, self._busy_since):
                    self._assurance.secure(now)
                due = self._turns.pace.due(next_create)
                if due is not None and due <= now:
                    return True
                self._changed.wait(None if due is None else due - now)
            return False

    def _tend(self) -> None:
        """Look, plan, act. What raises on the way is owed still: the next look finds it."""
        self._launcher.lane = self.lane
        with self._changed:
            turn = self._turns.begin(self._launcher.ledger, time.monotonic())
        look = self._store.look(self.lane, turn.name, turn.held)
        heard = self._turns.hear(turn, look, self._launcher.ledger)
        self._launcher.note_less()
        if look.reservations:
            self._assurance.want(time.monotonic())
        if look.workers:
            self._assurance.secure(turn.began)
        try:
            if heard.is_ours_to_see_to or self._may_look_for_all():
                self._plan(heard)
        except MachinesError as exc:
            for reservation in heard.reservations:
                self._store.release(self.lane, reservation)
            self._trouble(exc)
        with self._changed:
            self._turns.end(turn, look)
            self._changed.notify_all()

    def _may_look_for_all(self) -> bool:
        return self._store.try_lock(f"look:{self.lane.name}", self._turns.client, self._turns.lock_seconds)

    def _plan(self, heard: Heard) -> None:
        of_the_app = self._lists.since(heard.look.at)
        now = min(time.time(), heard.look.at / 1000)  # one clock that is ahead buries and stops nothing
        machines = [machine for machine in of_the_app if machine.lane == self.lane.name]
        ledger = self._launcher.ledger
        actions = self._turns.plan(heard, machines, self.lane, ledger, now=now, moment=time.monotonic())
        again = [self._act(action, now) for action in actions]
        if any(again):
            self._look_at_once()
        self._retirement.search_soon(self.lane, of_the_app)

    def _act(self, action: policy.Action, now: float) -> bool:
        """Answers whether to look again at once. now: seconds since the epoch."""
        match action:
            case policy.Start():
                return not self._launcher.start(action)  # somebody else has it: there may be another
            case policy.Create():
                self._launcher.ledger.create_soon(action)
            case policy.GiveBack():
                self._give_back_one(action)
            case policy.Bury():
                return self._losses.bury(self.lane, action, now)
            case policy.GiveUp():
                return self._losses.give_up(self.lane, action, now)
            case policy.Abandon():
                self._losses.abandon(self.lane, action)
            case policy.Stop():
                self._losses.stop(action)
        return False

    def _give_back_one(self, action: policy.GiveBack) -> None:
        self._store.release(self.lane, action.reservation)
        self._turns.troubles.obstacle = MachineStartError(
            f"as many machines as max_workers allows ({self.lane.max_workers}) are awake already, and their workers "
            "are not in Redis yet"
        )
        self._look_soon()

    def _launched(self, asked_at: float) -> None:
        """Fly has accepted a machine."""
        self._turns.accepted()
        self._assurance.secure(asked_at)

    def _launch_raised(self, action: policy.Start | policy.Create | policy.Wake, raised: BaseException) -> None:
        if not isinstance(action, policy.Wake):  # of that a look tells whether it came
            with self._changed:
                self._turns.owed.add(action.reservation)  # if Redis still has it
        self._stumble(raised)

    def _launch_outdated(self, refused: MachinesError) -> None:
        log.info("another machine is sought: %s", refused)
        self._look_at_once()

    def _stumble(self, raised: BaseException) -> float:
        """A thread could not go on with what it did. Answers when to try again."""
        self._turns.troubles.obstacle = raised
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
            while not self._closed and (left := min(moment, self._turns.pace.look_at) - time.monotonic()) > 0:
                self._changed.wait(left)

    def _look_at_once(self) -> None:
        with self._changed:
            self._turns.pace.look_by(0.0)
            self._changed.notify_all()

    def _look_soon(self) -> float:
        with self._changed:
            soon = self._turns.pace.look_soon(time.monotonic())
            self._changed.notify_all()
            return soon

    def _trouble(self, error: MachinesError, passing: bool = False) -> None:
        """Something could not be had. Waiting calls fail once it is clear that waiting will not help."""
        if self._closed:
            return
        now = time.monotonic()
        with self._changed:
            hopeful = self._turns.meet(error, now, self.lane.boot_timeout, passing=passing)
            self._changed.notify_all()
        if hopeful or self._assurance.see_worker(self.lane):
            log.log(
                logging.WARNING if self._turns.troubles.is_news(now) else logging.INFO,
                "no machine yet, trying again: %s",
                error,
            )
            return
        if not isinstance(error, MachineStartError):
            error = MachineStartError(f"no machine could be had: {error}", error.status, error.request_id)
        self._failed(self.lane, error)
        self._turns.troubles.tell()
        self._assurance.secure(now)
