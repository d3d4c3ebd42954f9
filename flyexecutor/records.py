"""Level 2: what calls, outcomes and reports look like in Redis: heads of words, and payloads in parts.

Large payloads have keys of their own, in parts that are below what a provider takes in one request. Uses the connection
of its store, which translates its errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from flyexecutor.call import Call, CallInfo, ClaimedCall, Outcome, Part, Report, Times
from flyexecutor.states import State

INLINE_BYTES = 256 * 1024  # a larger payload has its own keys, so that no entry of a stream is large
CHUNK_BYTES = 4 * 1024 * 1024  # Upstash refuses a request over 10 MB
UNFINISHED_TTL = 7 * 86400  # seconds that a call which never ends, and an unused queue, are kept


@dataclass(frozen=True, slots=True)
class Attached:
    """What Redis knows of a call that a client attaches to."""

    info: CallInfo
    outcome: Outcome | None  # None: it has not ended
    progress: bytes  # what it last said; empty: nothing
    lane: str


class Records:
    """The records of one app, written and read."""

    def __init__(self, client: "redis.Redis", prefix: str) -> None:
        self._redis = client
        self._prefix = prefix

    def put(self, name: str, sealed: bytes, *, always: bool = False) -> tuple[str, bytes]:
        """Store a large payload (or any) in keys of its own. Answers their name and number, and what to send inline.

        name: must be nobody else's, since several attempts and clients may send something for one call. Storing the
        same again is harmless.
        """
        if len(sealed) <= INLINE_BYTES and not always:
            return "-", sealed
        view = memoryview(sealed)
        chunks = f"{name}:{count_chunks(sealed)}"
        for n, key in enumerate(self._keys(chunks)):
            self._redis.set(key, view[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES], ex=UNFINISHED_TTL)
        return chunks, b""

    def drop(self, name: str, sealed: bytes) -> None:
        """Remove a large payload."""
        self._redis.unlink(*self._keys(f"{name}:{count_chunks(sealed)}"))

    def claimed(self, answer: Sequence[Sequence[bytes]], known: Mapping[str, Part]) -> list[ClaimedCall]:
        """Calls as a script has claimed them. `known`: parts that are here already."""
        claimed = []
        fetched = dict(known)
        for head, body in answer:
            call_id, attempt, chunks, timeout, raised, *parts = head.decode().split()
            for told in parts:
                part_id = told.split(":")[0]
                if part_id not in fetched:
                    fetched[part_id] = Part(part_id, self._get(told, b""))
            sealed = self._get(chunks, body)
            shared = [fetched[told.split(":")[0]] for told in parts]
            claimed.append(ClaimedCall(call_id, int(attempt), sealed, float(timeout), int(raised), shared))
        return claimed

    def news(self, fields: Mapping[bytes, bytes]) -> Outcome | Report:
        """An entry of a client's stream."""
        if b"report" in fields:
            call_id, attempt, kind, number, chunks = fields[b"report"].decode().split()
            return Report(call_id, int(attempt), kind, int(number), self._get(chunks, fields[b"body"]))
        call_id, _, head = fields[b"head"].decode().partition(" ")
        return self._outcome(call_id, head.split(), fields[b"body"], fields.get(b"logs", b""))

    def attached(self, call_id: str, answer: Sequence[bytes]) -> Attached:
        """A call as the script `attach` tells it."""
        head, body, logs, progress, lane = answer
        words = head.decode().split()
        outcome = self._outcome(call_id, words, body, logs) if State(words[0]).final else None
        state, attempt, machine_id, region, _, *times = words
        info = CallInfo(State(state), int(attempt), _text(machine_id), _text(region), read_times(times))
        return Attached(info, outcome, progress, lane.decode())

    def _outcome(self, call_id: str, words: Sequence[str], body: bytes, logs: bytes) -> Outcome:
        state, attempt, machine_id, region, chunks, *times = words
        where = (_text(machine_id), _text(region))
        return Outcome(call_id, int(attempt), State(state), *where, self._get(chunks, body), logs, read_times(times))

    def _get(self, chunks: str, inline: bytes) -> bytes:
        if chunks == "-":
            return inline
        # One at a time: together they may be larger than what a provider answers in one go.
        parts: list[Any] = [self._redis.get(key) for key in self._keys(chunks)]
        return b"".join(part or b"" for part in parts)  # a missing part does not verify, and is told so

    def _keys(self, chunks: str) -> list[str]:
        name, _, number = chunks.rpartition(":")
        return [f"{self._prefix}:chunk:{name}:{n}" for n in range(1, int(number) + 1)]


def further_fields(call: Call) -> list[str | bytes]:
    """What the record of a call holds beside what all have: names and values."""
    told: list[str | bytes] = []
    if call.timeout:
        told += ("timeout", str(call.timeout))
    if call.expires:
        told += ("expires", str(int(call.expires * 1000)), "expired", call.expired)
    if call.batch:
        told += ("batch", call.batch)
    if call.bigger:
        told += ("bigger", " ".join(call.bigger))
    if call.parts:
        told += ("parts", " ".join(f"{part.id}:{count_chunks(part.sealed)}" for part in call.parts))
    return told


def name_of(told: Outcome | Report) -> str:
    """The name of the keys of a large outcome or item: each attempt has its own."""
    number = f".{told.number}" if isinstance(told, Report) else ""
    return f"{told.id}.{told.attempt}{number}"


def count_chunks(sealed: bytes) -> int:
    """How many keys a large payload has."""
    return -(-len(sealed) // CHUNK_BYTES)


def read_times(milliseconds: Sequence[bytes | str | None]) -> Times:
    """Times as Redis keeps them."""
    return Times(*(int(at or 0) / 1000 for at in milliseconds))


def _text(word: str) -> str:
    return "" if word == "-" else word
