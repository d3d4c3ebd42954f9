"""Step 5: what a client has asked Fly for, or is about to, from the plan until the worker joins. Pure but for a lock.

The fleet's thread and those of the launches write here; the fleet of the simulation (`benchmarks/_fleet_ours.py`) has
the same ledger. It has no clock: whoever asks says what time it is, in seconds, by a clock that only runs on.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from flyexecutor.errors import MachinesError
from flyexecutor.fleet.api import is_capacity, is_too_soon
from flyexecutor.fleet.machine import Exit
from flyexecutor.fleet.policy import Boot, Create, Start, Wake

AVOID_FOR = 60.0  # seconds: a machine whose host had no room, or that does not rest, or is not that far for longer than
# Of a start: the machine has gone, or is in another state than it was when we looked. The next look shows it.
OVERTAKEN = frozenset({404, 408, 409, 412})


@dataclass(frozen=True, slots=True)
class InHand:
    """What was under way at one moment."""

    creating: Sequence[Create]  # with Fly, or waiting for their moment
    starting: frozenset[str]  # machines whose start Fly has not answered
    boots: Mapping[str, Boot]  # machines that we started, whether they have joined or not


class Ledger:
    """The machines of one lane that one client is starting."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._boots: dict[str, Boot] = {}
        self._avoided: dict[str, float] = {}  # machine -> until when
        self._waiting: deque[Create] = deque()  # creates, for their moment
        self._with_fly: list[Start | Create | Wake] = []
        self._create_at: float | None = None  # the moment that was taken for the next create

    @property
    def busy(self) -> bool:
        """Whether a machine is still to be asked for."""
        with self._lock:
            return bool(self._with_fly or self._waiting)

    def in_hand(self) -> InHand:
        """What is under way now."""
        with self._lock:
            creating = [*(asked for asked in self._with_fly if isinstance(asked, Create)), *self._waiting]
            return InHand(creating, self._starting(), dict(self._boots))

    def keep(self, before: InHand, starts: frozenset[str]) -> InHand:
        """Drop what Redis counts on no longer: creates whose reservation has expired (others have been granted in its
        place), and machines that have joined, which takes them out of `starts`. Answers what is left of `before`, and
        without the boots that Fly has not answered for.

        before: what was in hand before `starts` was read; what came after can't be in it.
        """
        with self._lock:
            expired = {create.reservation for create in self._waiting if create.reservation not in starts}
            self._waiting = deque(create for create in self._waiting if create.reservation not in expired)
            self._boots = {m: boot for m, boot in self._boots.items() if m in starts or m not in before.boots}
            starting = self._starting()
            return InHand(
                [create for create in before.creating if create.reservation not in expired],
                before.starting,
                {machine_id: boot for machine_id, boot in self._boots.items() if machine_id not in starting},
            )

    def _starting(self) -> frozenset[str]:
        started = {asked.machine.id for asked in self._with_fly if isinstance(asked, Start)}
        return frozenset(started | {asked.machine_id for asked in self._with_fly if isinstance(asked, Wake)})

    # With Fly

    def begin(self, start: Start | Wake) -> None:
        """This start is asked for, until `end`."""
        with self._lock:
            self._with_fly.append(start)

    def end(self, action: Start | Create | Wake) -> None:
        """Fly has answered, or something went wrong."""
        with self._lock:
            self._with_fly.remove(action)

    def refuse(self, machine_id: str, error: MachinesError, now: float) -> bool:
        """Fly has refused to start this machine. Answers whether that passes by itself."""
        if is_capacity(error) or is_too_soon(error):
            self.avoid(machine_id, now)
        return error.status in OVERTAKEN

    # Creates

    def create_soon(self, create: Create) -> None:
        """This create waits for its moment."""
        with self._lock:
            self._waiting.append(create)

    def next_create(self, now: float, take_moment: Callable[[], float]) -> float | None:
        """When the create that has waited longest may go out; None: none waits.

        take_moment: answers the seconds until a moment that is the asker's then; asked once for each create.
        """
        with self._lock:
            if not self._waiting:
                return None
        if self._create_at is None:
            self._create_at = now + take_moment()
        return self._create_at

    @property
    def first(self) -> Create:
        """The create that has waited longest."""
        with self._lock:
            return self._waiting[0]

    def take_create(self, *, wanted: bool) -> None:
        """The create that has waited longest waits no longer: it is asked for, until `end`, if it is still wanted."""
        with self._lock:
            create = self._waiting.popleft()
            self._create_at = None
            if wanted:
                self._with_fly.append(create)

    def drop_creates(self) -> list[str]:
        """Create no more; answers the reservations of those that waited."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
            return [create.reservation for create in waiting]

    # Boots

    def boot(self, machine_id: str, exit_before: Exit | None, now: float, *, seen: bool = True) -> None:
        """This machine is on its way from now on. seen: how it had ended before is known."""
        with self._lock:
            self._boots[machine_id] = Boot(now, exit_before, seen)

    def accept(self, machine_id: str, now: float) -> None:
        """Fly has accepted its start: it is on its way since now, if anybody still counts on it."""
        with self._lock:
            if boot := self._boots.get(machine_id):
                self._boots[machine_id] = replace(boot, asked_at=now)

    def is_booting(self, machine_id: str) -> bool:
        """Whether we count on this machine."""
        with self._lock:
            return machine_id in self._boots

    def forget(self, machine_id: str) -> None:
        """Count on this machine no longer."""
        with self._lock:
            self._boots.pop(machine_id, None)

    def forget_boots(self) -> None:
        """Nobody needs a machine any longer: when one is needed again, who is on the way then is another's, perhaps."""
        with self._lock:
            starting = self._starting()
            self._boots = {machine_id: boot for machine_id, boot in self._boots.items() if machine_id in starting}

    def avoid(self, machine_id: str, now: float) -> None:
        """Start another than this machine, for a while."""
        with self._lock:
            self._avoided[machine_id] = now + AVOID_FOR

    def avoided(self, now: float) -> frozenset[str]:
        """Machines that could not be started just now."""
        with self._lock:
            return frozenset(machine_id for machine_id, until in self._avoided.items() if until > now)
