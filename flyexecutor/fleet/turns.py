"""Step 5, from one look to the next: what a fleet remembers of its lane, and what it makes of what it sees. Pure.

The fleet's thread does what is said here, and so does the fleet of the simulation (`benchmarks/_fleet_ours.py`): a turn
begins, Redis is read (`hear`), then Fly (`plan`), and the actions are carried out. Nothing here has a clock: whoever
asks says what time it is, in seconds by a clock that only runs on (monotonic).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flyexecutor.errors import MachinesError, MachineStartError
from flyexecutor.fleet import policy
from flyexecutor.fleet.api import is_capacity, is_transient
from flyexecutor.fleet.ledger import InHand, Ledger
from flyexecutor.fleet.machine import Machine
from flyexecutor.lane import Lane
from flyexecutor.store.lanes import LaneLook

LOOK_EVERY = 5.0  # seconds; Fly allows one list a second per app, which all lanes and clients share
LOOK_AT_LEAST_EVERY = 600.0  # seconds: a client whose calls end sooner looks now and then all the same
FIRST_PAUSE = 0.5  # seconds before the look that follows on a trouble; it doubles up to LOOK_EVERY
UNWANTED_FOR = 20.0  # seconds that a machine runs for nobody: one that has just left its lane is about to rest
SAY_EVERY = 60.0  # seconds between two warnings of one trouble
FIRST_CONTACT = 5.0  # seconds: an API that never answered is a wrong setting rather than an outage


@dataclass(frozen=True, slots=True)
class Turn:
    """A look that has begun, before Redis is read: what ends meanwhile is in the one or in the other."""

    name: str  # what Redis grants to it is named after it
    began: float
    owed: frozenset[str]  # reservations that calls were stored with and that no look has seen to
    in_hand: InHand

    @property
    def held(self) -> list[str]:
        """The reservations to renew, and the machines that are on their way."""
        return [*self.owed, *self.creating, *self.in_hand.boots]

    @property
    def creating(self) -> frozenset[str]:
        """The reservations for which a machine is being created."""
        return frozenset(create.reservation for create in self.in_hand.creating)


@dataclass(frozen=True, slots=True)
class Heard:
    """What Redis said to a turn."""

    look: LaneLook
    reservations: Sequence[str]  # ours, not yet a machine
    in_hand: InHand  # what is left of it

    @property
    def is_ours_to_see_to(self) -> bool:
        """Whether the asker must see for itself; else one client looks for all."""
        return bool(self.reservations or self.in_hand.boots)


class Pace:
    """When a fleet looks: every few seconds while calls are pending, sooner after trouble, never while it is parked."""

    def __init__(self) -> None:
        self.woken, self.woken_at = False, 0.0
        self.look_at = 0.0
        self._looked_at = -math.inf
        self._pause = FIRST_PAUSE

    def wake(self, now: float, *, at_once: bool) -> None:
        """Calls are pending from now on. at_once: the first look is due now; else in its time, if they last so long."""
        if not self.woken:
            self.woken, self.woken_at = True, now
            overdue = at_once or now - self._looked_at >= LOOK_AT_LEAST_EVERY
            self.look_at = max(self.look_at, now if overdue else now + LOOK_EVERY)

    def begin(self, now: float) -> None:
        """A look begins: the next follows in its time."""
        self._looked_at = now
        self.look_at = now + LOOK_EVERY

    def look_by(self, moment: float) -> None:
        """Look at that moment at the latest; 0: at once."""
        self.look_at = min(self.look_at, moment)

    def look_soon(self, now: float) -> float:
        """Something went wrong: look again after a pause, which grows. Answers when."""
        soon = now + self._pause
        if not now < self.look_at <= soon:
            self.look_at, self._pause = soon, min(LOOK_EVERY, self._pause * 2)
        return soon

    def calm(self) -> None:
        """Nothing is wrong any longer."""
        self._pause = FIRST_PAUSE

    def is_due(self, now: float) -> bool:
        """Whether to look now."""
        return self.woken and now >= self.look_at

    def due(self, next_create: float | None) -> float | None:
        """When the next look or create is due; None: neither before somebody wakes us."""
        moments = [at for at in (self.look_at if self.woken else None, next_create) if at is not None]
        return min(moments, default=None)


class Troubles:
    """Why there is no machine, since when, and for how long calls wait for that to pass."""

    def __init__(self) -> None:
        self.obstacle: BaseException | None = None  # whoever has news sets it
        self.reached = False  # whether Fly's API has answered once
        self._since: float | None = None
        self._said_at: float | None = None

    def may_pass(self, error: MachinesError, now: float, boot_timeout: float, *, passing: bool) -> bool:
        """Whether calls may wait on although this went wrong.

        passing: it is known to pass by itself.
        """
        self.obstacle = error
        self.reached = self.reached or error.status is not None
        if self._since is None:
            self._since = now
        never = isinstance(error, MachineStartError) and error.phase != "create"
        patience = 0.0
        if passing or is_capacity(error) or (is_transient(error) and not never):
            patience = boot_timeout if self.reached else FIRST_CONTACT
        return now - self._since < patience

    def is_news(self, now: float) -> bool:
        """Whether to say that there is trouble: at its begin, and now and then while it lasts."""
        if self._said_at is not None and now - self._said_at < SAY_EVERY:
            return False
        self._said_at = now
        return True

    def tell(self) -> None:
        """Calls have failed with it: what comes next is new trouble."""
        self._since = self._said_at = None

    def end(self) -> None:
        """All is well, as far as we know."""
        self._since = self._said_at = None
        self.obstacle = None


class Turns:
    """One client's looks at one lane. `owed` and `pace` are shared between threads: who has some guards them."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.owed: set[str] = set()  # reservations that calls were stored with and that a look has not seen to
        self.pace = Pace()
        self.troubles = Troubles()
        self._looks = 0
        self._ending_since: float | None = None  # machine after machine ends before its worker joins
        self._unwanted: dict[str, float] = {}  # machine -> since when each look finds that it runs for nobody

    def start_soon(self, reservations: Iterable[str], now: float, *, at_once: bool = True) -> None:
        """Calls were stored, with these reservations. at_once: else, whether they need a look soon."""
        self.pace.wake(now, at_once=at_once)
        owed = set(reservations)
        if owed:
            self.owed |= owed
            self.pace.look_at = now

    def park(self, ledger: Ledger, busy_since: Callable[[], float | None]) -> bool:
        """Look no more until calls are stored, if all have ended. Answers whether that has come to be so."""
        if not self.pace.woken or self.owed or busy_since() is not None:
            return False
        self._park(ledger)
        return True

    def part_busy_times(self, ledger: Ledger, busy_since: float | None) -> None:
        """Be as if parked in between, if all calls had ended by the time that the next were submitted."""
        if self.pace.woken and not self.owed and (busy_since is None or busy_since > self.pace.woken_at):
            self._park(ledger)

    def _park(self, ledger: Ledger) -> None:
        self.pace.woken = False
        ledger.forget_boots()
        self._calm()
        self._ending_since = None

    def begin(self, ledger: Ledger, now: float) -> Turn:
        """A look begins: read Redis with the name of this turn, and renew what it holds."""
        self._looks += 1
        self.pace.begin(now)
        return Turn(f"{self.client}.look{self._looks}", now, frozenset(self.owed), ledger.in_hand())

    @property
    def lock_seconds(self) -> float:
        """For how long one client looks for all: it has the next look again, if nobody is faster."""
        return LOOK_EVERY * 0.9

    def hear(self, turn: Turn, look: LaneLook, ledger: Ledger) -> Heard:
        """What Redis says."""
        if look.workers:
            self._ending_since = None
        # Also those of earlier looks, which failed or whose answer was lost. What has expired was granted anew.
        ours = {name for name in look.starts if name in turn.owed or name.startswith(f"{self.client}.look")}
        return Heard(look, sorted(ours - turn.creating), ledger.keep(turn.in_hand, look.starts))

    def plan(
        self, heard: Heard, machines: Sequence[Machine], lane: Lane, ledger: Ledger, *, now: float, moment: float
    ) -> list[policy.Action]:
        """What is to be done.

        machines: those of the lane, read after Redis. now: seconds since the epoch. moment: by our clock.
        """
        self.troubles.reached = True
        seen = policy.Snapshot(
            machines=machines,
            workers=heard.look.workers,
            starts=heard.look.starts,
            reservations=heard.reservations,
            creating=heard.in_hand.creating,
            starting=heard.in_hand.starting,
            booting=heard.in_hand.boots,
            avoid=ledger.avoided(moment),
            max_workers=lane.max_workers,
            warm=lane.warm,
            boot_timeout=lane.boot_timeout,
            now=now,
            moment=moment,
        )
        actions = policy.plan(seen)
        unwanted = [action.machine.id for action in actions if isinstance(action, policy.Stop)]
        self._unwanted = {machine_id: self._unwanted.get(machine_id, moment) for machine_id in unwanted}
        return [
            action for action in actions if not isinstance(action, policy.Stop) or self._is_unwanted(action, moment)
        ]

    def _is_unwanted(self, stop: policy.Stop, moment: float) -> bool:
        return moment - self._unwanted[stop.machine.id] > UNWANTED_FOR

    def end(self, turn: Turn, look: LaneLook) -> None:
        """What was owed when the turn began is owed no longer: what it could not see to has been given back."""
        # Not a create that has raised and whose thread had not ended: this turn has passed it over.
        self.owed -= turn.owed - turn.creating
        if look.due is not None:
            self.pace.look_by(turn.began + look.due)

    def give_up(self, action: policy.GiveUp, now: float, boot_timeout: float) -> bool:
        """A machine has ended before its worker joined. Answers whether to start it again at once."""
        if self._ending_since is None:
            self._ending_since = now
        return action.again and now - self._ending_since < boot_timeout

    def meet(self, error: MachinesError, now: float, boot_timeout: float, *, passing: bool) -> bool:
        """Something could not be had: look again soon. Answers whether calls may wait on.

        passing: it is known to pass by itself.
        """
        self.pace.look_soon(now)
        return self.troubles.may_pass(error, now, boot_timeout, passing=passing)

    def accepted(self) -> None:
        """Fly has accepted a machine."""
        self.troubles.reached = True
        self._calm()

    def _calm(self) -> None:
        self.troubles.end()
        self.pace.calm()
