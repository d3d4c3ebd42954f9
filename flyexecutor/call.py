"""The frozen records that travel between the modules and, through the store, between the processes."""

from collections.abc import Sequence
from dataclasses import dataclass

from flyexecutor.states import State
from flyexecutor.terms import UNREAD, CallTerms


@dataclass(frozen=True, slots=True)
class Part:
    """What several calls of a fan-out share: stored once, named by each of them."""

    id: str
    sealed: bytes  # unread until a runner has verified it


@dataclass(frozen=True, slots=True)
class Call:
    """One submitted invocation, sealed. What a client gives to the store (step 2 to 4)."""

    id: str
    sealed: bytes  # unread until a runner has verified it
    retries: int = 0  # further attempts after a machine was lost
    keep: bool = True  # False: the record goes as soon as the outcome is published (`map`)
    expires: float = 0.0  # seconds in which a worker must begin it; 0: any time
    expired: bytes = b""  # the sealed outcome for the case that none did
    keyed: bool = False  # its id comes from the caller's key: it may be there already,
    pointers: Sequence[str] = ()  # or under the id that the key gives with another key of the ring (`Trust.pointers`)
    bigger: Sequence[str] = ()  # lanes of ever larger machines, for when it runs out of memory
    parts: Sequence[Part] = ()
    name: str = ""  # for people
    nonce: bytes = b""  # of this submit


@dataclass(frozen=True, slots=True)
class ClaimedCall:
    """A call that a worker has claimed and must finish or hand back (step 6)."""

    id: str
    attempt: int  # fencing number, 1 on the first run
    sealed: bytes
    terms: CallTerms = UNREAD  # as the worker has read them, unverified: a runner verifies before anything runs
    losses: int = 0  # attempts whose machine was lost
    raised: int = 0  # attempts that ended with an exception which is retried
    parts: Sequence[Part] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class Mail:
    """What came to a worker by its inbox."""

    calls: Sequence[ClaimedCall]
    kills: Sequence[str]  # ids of calls that it shall kill


@dataclass(frozen=True, slots=True)
class Times:
    """When what happened to a call, by Redis's clock, in seconds since the epoch; 0.0: it has not."""

    queued: float = 0.0
    started: float = 0.0  # its last attempt
    finished: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended, as it travels back (step 8 and 9)."""

    id: str
    attempt: int  # 0: it never ran
    state: State  # as Redis says, until `sealed` was opened
    machine_id: str  # empty if it never ran
    region: str
    sealed: bytes  # unread until trust has verified it; LOST, KILLED: a plain reason; CANCELLED: empty
    logs: bytes = b""  # the end of what it printed; from the store only if it failed
    times: Times = Times()
    nonce: bytes = b""  # of the call that has ended, as its worker knows it; empty if nobody has verified it


@dataclass(frozen=True, slots=True)
class Report:
    """What a running call says before it ends (step 8 and 9)."""

    PROGRESS, ITEM, LOGS, MOVED, SAME = "progress", "item", "logs", "moved", "same"

    id: str
    attempt: int
    kind: str  # one of the above
    number: int  # of an item: 0, 1, ...
    body: bytes  # an item is sealed; the others are plain text


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What is known of a call: its state, where it ran, and when what happened (seconds since the epoch)."""

    state: State
    attempt: int  # how many times it was begun
    machine_id: str = ""  # that runs it, or ran it last
    region: str = ""
    times: Times = Times()
    expires_at: float | None = None  # until then the outcome of a call that has ended can be had by its id
    lane: str = ""  # the name of the machine configuration that it needs
    dollars: float | None = None  # an estimate, for the time that its last attempt ran; None: not known
    name: str = ""  # of its function, or as `with_options(name=...)` says; not signed

    @property
    def queue_seconds(self) -> float | None:
        """Seconds from submission to the beginning of the last attempt; None before that."""
        return self.times.started - self.times.queued if self.times.started else None

    @property
    def run_seconds(self) -> float | None:
        """Seconds that the last attempt ran; None before it has ended."""
        return self.times.finished - self.times.started if self.times.started and self.times.finished else None
