"""Level 1: the frozen records that travel between the modules and, through the store, between the processes."""

from dataclasses import dataclass

from flyexecutor.states import State


@dataclass(frozen=True, slots=True)
class Call:
    """One submitted invocation, sealed. What a client gives to the store (step 2 to 4)."""

    id: str
    sealed: bytes  # unread until a runner has verified it
    retries: int  # further attempts after a machine was lost
    keep: bool  # False: the record goes as soon as the outcome is published (`map`)


@dataclass(frozen=True, slots=True)
class ClaimedCall:
    """A call that a worker has claimed and must finish or hand back (step 6)."""

    id: str
    attempt: int  # fencing number, 1 on the first run
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended, as it travels back (step 8 and 9)."""

    id: str
    attempt: int  # 0: it never ran
    state: State
    machine_id: str  # empty if it never ran
    region: str
    sealed: bytes  # unread until trust has verified it; LOST: a plain reason; CANCELLED: empty


@dataclass(frozen=True, slots=True)
class Standing:
    """What Redis says of a call that has not ended, or has: its answer to `state()`."""

    state: State
    attempt: int
    machine_id: str
