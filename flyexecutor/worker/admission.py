"""Step 6: which claimed calls may run on this machine: by their sealed terms, whatever Redis says of them.

Whoever can write to Redis can put an authentic call where it does not belong: into another queue, or back into its own
once it has ended. The terms are read here without the key, and a call is at most refused because of them: before it
runs, its runner verifies them with all the rest. No thread.
"""

import time
from collections.abc import Iterable

from flyexecutor.call import ClaimedCall
from flyexecutor.errors import PayloadError
from flyexecutor.terms import CLOCKS_DIFFER, UNFINISHED_TTL, UNREAD

REMEMBERED = 10_000  # calls: some 1.5 MB


class Admission:
    """What one worker knows of the calls that it is given."""

    def __init__(self, lane: str) -> None:
        self._lane = lane
        self._ended: dict[bytes, None] = {}  # the nonces of calls that have ended here, the oldest first,
        self._run = ""  # as this run of a server was told

    def refusal(self, call: ClaimedCall) -> PayloadError | None:
        """Why this call must not run here; None if it may. What can't be read its runner refuses, with the reason."""
        why = "" if call.terms is UNREAD else self._reason(call)
        if not why:
            return None
        return PayloadError(f"the call payload of call {call.id} does not belong here: {why}; it was not run")

    def note_server(self, run: str) -> None:
        """What the worker is connected to from now on; empty: not known. Another run of Redis may know less: after a
        crash, a failover or from a backup it has calls run again that have ended, rightly.
        """
        if not run or run != self._run:
            self._ended.clear()
        self._run = run

    def note_ended(self, nonces: Iterable[bytes]) -> None:
        """Redis has taken these outcomes: none of their calls runs here again."""
        for nonce in nonces:
            self._ended[nonce] = None
        while len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]

    def _reason(self, call: ClaimedCall) -> str:
        terms = call.terms
        age = time.time() - terms.made_at
        if self._lane not in terms.lanes:
            return f"it was made for the lane {' or '.join(terms.lanes)}, and this machine is of the lane {self._lane}"
        if terms.nonce in self._ended:
            return "this machine has ended it before, and somebody has put it into the queue again"
        if call.losses > terms.retries:
            return f"its machine was lost {call.losses} times, and it was made with retries={terms.retries}"
        if age > UNFINISHED_TTL + CLOCKS_DIFFER:
            days = f"{age / 86400:.1f} days"
            return f"it was made {days} ago by its submitter's clock, and none lives for {UNFINISHED_TTL / 86400:g}"
        if call.attempt == 1 and 0 < terms.expires < age - CLOCKS_DIFFER:
            return f"it was made {age:.0f} s ago by its submitter's clock, with expires={terms.expires:g}"
        return ""
