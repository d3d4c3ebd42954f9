"""How long a worker stays in its lane: joins it, tends what is due there, and leaves when it is not needed. No thread.

It leaves when it was idle for `idle_timeout`, or sooner when it is spare: when fewer workers would have been enough of
late. A worker that has just joined is taken for spare until it gets a call.
"""

import time
from collections.abc import Iterable

from flyexecutor.store.calls import Store

SOON = 30.0  # seconds: a worker stays for a retry that is due so soon
LEAVE_AGAIN = 0.05  # seconds after a refused leave


class Membership:
    """One worker's place in its lane. Times are monotonic seconds."""

    def __init__(
        self,
        store: Store,
        lane: str,
        machine_id: str,
        *,
        idle_timeout: float,
        concurrency: int,
        suspends: bool,
        proof: str = "",
    ) -> None:
        """proof: with which its machine is noted as resting; empty: nobody is to start it."""
        self._store = store
        self._lane = lane
        self._machine_id = machine_id
        self.idle_timeout = idle_timeout
        self._concurrency = concurrency
        self._suspends = suspends
        self._proof = proof
        self._idle_since = time.monotonic()
        self._spare = False
        self._ask_from = 0.0  # not before
        self._turn_at: float | None = None  # from then on it may be suspended
        self.due_at: float | None = None  # when a call of the lane is due

    def join(self, *, first: bool, held: Iterable[str]) -> None:
        """Join the lane, for the first time or after a broken connection."""
        self._note_due(self._store.join(self._lane, self._machine_id, first=first, held=held))
        if first:
            self._joined()

    def join_if_started(self) -> bool:
        """Join again after having left, if somebody has started the machine since."""
        if not self._store.join_if_started(self._lane, self._machine_id):
            return False
        self._joined()
        return True

    def worked(self, *, spare: bool = False) -> None:
        """Something was done just now. spare: Redis says that fewer workers would do."""
        self._idle_since = time.monotonic()
        self._spare = spare

    def expect_due(self, seconds: float) -> None:
        """A call of the lane is due in so many seconds."""
        due_at = time.monotonic() + seconds
        self.due_at = due_at if self.due_at is None else min(due_at, self.due_at)

    def tend_due(self) -> None:
        """Do what is due now, if anything is."""
        if self.due_at is not None and time.monotonic() >= self.due_at:
            self._note_due(self._store.tend_due(self._lane))

    @property
    def leaves_at(self) -> float:
        """When it may leave, if it stays idle."""
        return max(self._ask_from, 0.0 if self._spare else self._idle_since + self.idle_timeout)

    def leave(self, read_to: str) -> bool:
        """Leave, being idle; False: it is needed here. read_to: of its inbox."""
        now = time.monotonic()
        stay = self._store.leave(
            self._lane,
            self._machine_id,
            must=False,
            soon=SOON,
            idle_left=max(0.0, self._idle_since + self.idle_timeout - now),
            concurrency=self._concurrency,
            suspends=self._suspends and not (self._turn_at and now >= self._turn_at),
            read_to=read_to,
            proof=self._proof,
        )
        if stay is None:
            self._turn_at = None
            return True
        # Refused: calls wait, and another worker may take them first. So not at once again.
        self._ask_from = now + max(stay.seconds, LEAVE_AGAIN)
        if stay.why == "turn":
            self._turn_at = self._ask_from  # kept, even if calls come meanwhile: or a trickle would never let it go
        else:
            self._spare = False
        if stay.why == "due":
            self.expect_due(stay.seconds)
        return False

    def must_leave(self, reason: str = "", *, rests: bool = False) -> None:
        """Leave in any case; what it holds is queued again, or lost for this reason. rests: its machine will."""
        self._store.leave(self._lane, self._machine_id, must=True, reason=reason, proof=self._proof if rests else "")

    def _joined(self) -> None:
        self.worked(spare=True)
        self._ask_from = self._idle_since + LEAVE_AGAIN

    def _note_due(self, seconds: float | None) -> None:
        self.due_at = None if seconds is None else time.monotonic() + seconds
