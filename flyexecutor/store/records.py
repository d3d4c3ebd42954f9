"""What calls, outcomes and reports look like in Redis: heads of words, and payloads in parts.

Large payloads have keys of their own, in pieces that are below what a provider takes in one request. Each piece is sent
and fetched by itself, and again if the connection breaks, so that a bad link costs a piece and not all of it. Uses the
connections of its store, which translates their errors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from flyexecutor import damage
from flyexecutor.call import Call, CallInfo, ClaimedCall, Outcome, Part, Report, Times
from flyexecutor.names import read_name
from flyexecutor.store.reader import is_damage
from flyexecutor.store.scripts import script

INLINE_BYTES = 256 * 1024  # a larger payload has its own keys, so that no entry of a stream is large
CHUNK_BYTES = 4 * 1024 * 1024  # Upstash refuses a request over 10 MB
UNTAKEN_TTL = 300  # seconds that a large payload is kept until a script takes it: whoever stored it may have died,
CHUNK_TTL = 30  # and for each of its pieces, since the first must live until the last is stored
SENT_AT_LEAST = 64 * 1024  # bytes that are noted for the bill at a time: a lone small outcome costs no command for that
BODIES_AT_ONCE = 16  # bodies that are fetched from records in one round trip


@dataclass(frozen=True, slots=True)
class Attached:
    """What Redis knows of a call that a client attaches to."""

    info: CallInfo
    outcome: Outcome | None  # None: it has not ended
    progress: bytes  # what it last said; empty: nothing
    lane: str


class Records:
    """The records of one app, written and read."""

    def __init__(self, client: "redis.Redis", bulk: "redis.Redis", prefix: str) -> None:
        self._redis = client
        self._bulk = bulk  # tries again: for what may be sent twice
        self._prefix = prefix
        self._sent = 0  # bytes of payloads, not yet noted for the bill

    def take_sent(self) -> int:
        """Bytes that were sent and that are to be noted now."""
        sent = self._sent if self._sent >= SENT_AT_LEAST else 0
        self._sent -= sent
        return sent

    def put(self, name: str, sealed: bytes, *, always: bool = False) -> tuple[str, bytes]:
        """Store a large payload (or any) in keys of its own. Answers their name and number, and what to send inline.

        name: must be nobody else's, since several attempts and clients may send something for one call. Storing the
        same again is harmless.
        """
        self._sent += len(sealed)
        if len(sealed) <= INLINE_BYTES and not always:
            return "-", sealed
        view = memoryview(sealed)
        chunks = f"{name}:{count_chunks(sealed)}"
        keys = list(self._keys(chunks))
        for n, key in enumerate(keys):
            piece = view[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES]
            script("put")(self._bulk, (key,), (piece, UNTAKEN_TTL + CHUNK_TTL * len(keys)))
        return chunks, b""

    def put_part(self, part: Part) -> None:
        """Store what calls share, unless it is there already; it is then kept for long enough to send a call."""
        keys = list(self._keys(_name_part(part)))
        if not script("keep")(self._redis, keys, (UNTAKEN_TTL,)):
            self.put(part.id, part.sealed, always=True)

    def drop(self, name: str, sealed: bytes) -> None:
        """Remove a large payload."""
        self._redis.unlink(*self._keys(f"{name}:{count_chunks(sealed)}"))

    def drop_part(self, part: Part) -> None:
        """Remove what calls shared."""
        self._redis.unlink(f"{self._prefix}:uses:{part.id}", *self._keys(_name_part(part)))

    def claimed(self, answer: Sequence[Sequence[bytes]], known: Mapping[str, Part]) -> list[ClaimedCall]:
        """Calls as a script has claimed them. `known`: parts that are here already."""
        claimed = []
        fetched = dict(known)
        for head, body, name in answer:
            # What the script has claimed it has checked.
            call_id, attempt, chunks, losses, raised, *parts = head.decode().split()
            for told in parts:
                part_id, _ = damage.pieces(told)
                if part_id not in fetched:
                    fetched[part_id] = Part(part_id, self._get(told, b""))
            sealed = self._get(chunks, body)
            shared = [fetched[damage.pieces(told)[0]] for told in parts]
            claimed.append(
                ClaimedCall(
                    call_id,
                    int(attempt),
                    sealed,
                    losses=int(losses),
                    raised=int(raised),
                    parts=shared,
                    name=read_name(name),
                )
            )
        return claimed

    def news(self, entries: Sequence[Mapping[bytes, bytes]]) -> Iterator[Outcome | Report | None]:
        """The entries of a client's stream, one after the other: what is large is fetched when it is asked for.

        None for one that nobody of ours wrote.
        """
        for at in range(0, len(entries), BODIES_AT_ONCE):
            some = entries[at : at + BODIES_AT_ONCE]
            heads = [fields.get(b"head", b"").decode(errors="replace").split() for fields in some]
            kept = [words[0] for words in heads if words[5:6] == ["="]]
            pipe = self._redis.pipeline(transaction=False)
            for call_id in kept:
                pipe.hmget(f"{self._prefix}:call:{call_id}", ["outcome_chunks", "outcome", "finished"])
            bodies = dict(zip(kept, pipe.execute(raise_on_error=False), strict=True)) if kept else {}
            for fields in some:
                one: Outcome | Report | None = None
                try:
                    one = self._report(fields) if b"report" in fields else self._ended(fields, bodies)
                except Exception as exc:  # whoever wrote it must not stop this client from reading on
                    if isinstance(exc, redis.RedisError) and not is_damage(exc):
                        raise
                    damage.tell_once("an entry of an outcome stream", exc)
                yield one

    def _report(self, fields: Mapping[bytes, bytes]) -> Report:
        call_id, attempt, kind, number, chunks = damage.words(fields[b"report"], "report", 5)
        body = self._get(chunks, fields[b"body"])
        return Report(call_id, _attempt(attempt), kind, damage.whole(number, "number of an item"), body)

    def _ended(self, fields: Mapping[bytes, bytes], kept: Mapping[str, Any]) -> Outcome:
        call_id, *words = damage.words(fields.get(b"head"), "outcome", 9)
        body = fields[b"body"]
        if call_id in kept:
            found = kept[call_id]
            if isinstance(found, redis.RedisError):
                raise found
            chunks, body, finished = (part or b"" for part in found)
            if finished.decode(errors="replace") != words[-1]:
                chunks, body = b"", b""  # it has expired meanwhile, and its key may name another call
            words[4] = damage.word(chunks, "chunks") or "-"
        return self._outcome(call_id, words, body, fields.get(b"logs", b""))

    def attached(self, call_id: str, answer: Sequence[bytes]) -> Attached:
        """A call as the script `attach` tells it."""
        head, body, logs, progress, lane, name = answer
        words = damage.words(head, "record", 8)
        state, attempt, machine_id, region, _, *times = words
        where = (_text(machine_id), _text(region))
        info = CallInfo(damage.state(state), _attempt(attempt), *where, read_times(times), name=read_name(name))
        outcome = self._outcome(call_id, words, body, logs) if info.state.final else None
        return Attached(info, outcome, progress, damage.word(lane, "lane"))

    def _outcome(self, call_id: str, words: Sequence[str], body: bytes, logs: bytes) -> Outcome:
        state, attempt, machine_id, region, chunks, *times = words
        where = (_text(machine_id), _text(region))
        sealed, ended = self._get(chunks, body), damage.state(state)
        return Outcome(call_id, _attempt(attempt), ended, *where, sealed, logs, read_times(times))

    def _get(self, chunks: str, inline: bytes) -> bytes:
        if chunks == "-":
            return inline
        # One at a time: together they may be larger than what a provider answers in one go.
        pieces: list[Any] = []
        for key in self._keys(chunks):
            try:
                piece: Any = self._bulk.getrange(key, 0, CHUNK_BYTES)  # one byte more than a piece of ours has
            except redis.ResponseError as exc:
                if not is_damage(exc):
                    raise
                piece = b""
            if not piece or len(piece) > CHUNK_BYTES:
                return b""  # it has expired, or is somebody else's: no payload is empty
            pieces.append(piece)
        return b"".join(pieces)

    def _keys(self, chunks: str) -> Iterator[str]:
        name, number = damage.pieces(chunks)
        return (f"{self._prefix}:chunk:{name}:{n}" for n in range(1, number + 1))


def further_fields(call: Call) -> list[str | bytes]:
    """What the record of a call holds beside what all have: names and values."""
    told: list[str | bytes] = []
    if call.expires:
        told += ("expires", str(int(call.expires * 1000)), "expired", call.expired)
    if call.pointers:
        told += ("pointers", " ".join(call.pointers))
    if call.bigger:
        told += ("bigger", " ".join(call.bigger))
    if call.parts:
        told += ("parts", " ".join(_name_part(part) for part in call.parts))
    return told


def name_of(told: Outcome | Report) -> str:
    """The name of the keys of a large outcome or item: each attempt has its own."""
    number = f".{told.number}" if isinstance(told, Report) else ""
    return f"{told.id}.{told.attempt}{number}"


def _name_part(part: Part) -> str:
    return f"{part.id}:{count_chunks(part.sealed)}"


def count_chunks(sealed: bytes) -> int:
    """How many keys a large payload has."""
    return -(-len(sealed) // CHUNK_BYTES)


def read_times(milliseconds: Sequence[bytes | str | None]) -> Times:
    """Times as Redis keeps them."""
    return Times(*map(damage.seconds, milliseconds))


def _attempt(told: str) -> int:
    return damage.whole(told, "attempt", damage.MOST_ATTEMPTS)


def _text(word: str) -> str:
    return "" if word == "-" else word
