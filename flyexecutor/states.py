"""The states of a call, and every transition between them.

The Lua scripts make these transitions; tests drive each script from each state and compare with this table.
"""

from enum import StrEnum


class State(StrEnum):
    """Where a call stands. A state that is not a key of `NEXT` is final: the first final state wins."""

    QUEUED = "QUEUED"  # stored in Redis, waits for a worker
    RUNNING = "RUNNING"  # claimed by a worker
    SUCCEEDED = "SUCCEEDED"  # the function returned
    FAILED = "FAILED"  # it raised, its runner died, or no machine could be had
    CANCELLED = "CANCELLED"  # taken back before a worker claimed it
    LOST = "LOST"  # its machines died, and no attempt is left
    KILLED = "KILLED"  # stopped by `future.kill()` while it ran

    @property
    def final(self) -> bool:
        """Whether the call has ended."""
        return self not in NEXT


NEXT: dict[State, frozenset[State]] = {
    # FAILED: no machine could be had, or it was not begun in time
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.FAILED}),
    # QUEUED: its machine was lost, it raised and is tried again, or it was handed back
    State.RUNNING: frozenset({State.QUEUED, State.SUCCEEDED, State.FAILED, State.LOST, State.KILLED}),
}
