"""The terms of calls and outcomes: what is sealed beside a body, in plain bytes.

They can be read without the key, and are believed only once `trust` has verified what they came with. Before that
whoever reads them may refuse because of them, and nothing else. On the hot path: tuples and one `struct` each.
"""

import secrets
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

from flyexecutor.states import State

CLOCKS_DIFFER = 3600.0  # seconds by which clocks of clients and machines may differ: in doubt a term holds for longer
NONCE_BYTES = 16
UNFINISHED_TTL = 7 * 86400  # seconds that a call which never ends is kept, and may run
_CALL = struct.Struct(f">{NONCE_BYTES}sdIddd")  # and then the lanes, with a space in between
_OUTCOME = struct.Struct(f">{NONCE_BYTES}s?d")
_MOST = 2**32 - 1


class CallTerms(NamedTuple):
    """On which terms a call may run."""

    nonce: bytes  # of this submit: the same key gives the same id, but never the same nonce
    made_at: float  # seconds since the epoch, by the client's clock
    lanes: Sequence[str]  # where it may run: its own, then those of larger machines
    retries: int = 0  # further attempts after a machine was lost
    timeout: float = 0.0  # seconds that it may run; 0: any time
    expires: float = 0.0  # seconds in which a worker must begin it; 0: any time
    result_ttl: float = 0.0  # seconds that its outcome is kept

    def pack(self) -> bytes:
        """As bytes."""
        nonce, made_at, lanes, retries, timeout, expires, result_ttl = self
        numbers = _CALL.pack(nonce, made_at, min(retries, _MOST), timeout, expires, result_ttl)
        return numbers + " ".join(lanes).encode()

    @classmethod
    def unpack(cls, packed: bytes | memoryview) -> "CallTerms":
        """The reverse of `pack`. Raises struct.error or ValueError for what it has not packed."""
        nonce, made_at, *numbers = _CALL.unpack_from(packed)
        return cls(nonce, made_at, str(packed[_CALL.size :], "ascii").split(), *numbers)


class OutcomeTerms(NamedTuple):
    """What an outcome is, and of what."""

    nonce: bytes  # of the call that it answers; that of UNREAD: who says so could not read it
    state: State  # SUCCEEDED or FAILED
    kept_until: float  # seconds since the epoch, by the worker's clock, or the client's if that one is ahead

    def pack(self) -> bytes:
        """As bytes."""
        return _OUTCOME.pack(self.nonce, self.state is State.SUCCEEDED, self.kept_until)

    @classmethod
    def unpack(cls, packed: bytes | memoryview) -> "OutcomeTerms":
        """The reverse of `pack`. Raises struct.error for what it has not packed."""
        nonce, succeeded, kept_until = _OUTCOME.unpack(packed)
        return cls(nonce, State.SUCCEEDED if succeeded else State.FAILED, kept_until)


def new_terms(
    lanes: Sequence[str],
    *,
    result_ttl: float,
    retries: int = 0,
    timeout: float = 0.0,
    expires: float = 0.0,
    nonce: bytes = b"",
) -> CallTerms:
    """The terms of a call that is submitted now. nonce: if something of this submit is unique already."""
    nonce = nonce or secrets.token_bytes(NONCE_BYTES)
    return CallTerms(nonce, time.time(), lanes, retries, timeout, expires, result_ttl)


def answer_to(call: CallTerms, state: State) -> OutcomeTerms:
    """The terms of the outcome with which this call ends now."""
    # A worker's clock that lags must not make an outcome that has expired before it is there.
    return OutcomeTerms(call.nonce, state, max(time.time(), call.made_at) + call.result_ttl)


# Stands for the terms of a call that nobody could read, or has verified: what answers it is an error, never a result.
UNREAD = CallTerms(bytes(NONCE_BYTES), 0.0, (), result_ttl=UNFINISHED_TTL)
