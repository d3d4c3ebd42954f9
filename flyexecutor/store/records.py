"""What calls, outcomes and reports look like in Redis: heads of words, and payloads in parts.

Large payloads have keys of their own, in pieces that are below what a provider takes in one request. Each piece is sent
and fetched by itself, and again if the connection breaks, so that a bad link costs a piece and not all of it. Uses the
connections of its store, which translates their errors.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from flyexecutor import damage
from flyexecutor.call import Call, CallInfo, ClaimedCall, Mail, Outcome, Part, Report, Times
from flyexecutor.names import read_name
from flyexecutor.store.connection import is_damage
from flyexecutor.store.scripts import IN_RECORD, script

INLINE_BYTES = 256 * 1024  # a larger payload has its own keys, so that no entry of a stream is large
PIECE_BYTES = 4 * 1024 * 1024  # Upstash refuses a request over 10 MB
UNTAKEN_TTL = 300  # seconds that a large payload is kept until a script takes it: whoever stored it may have died,
PIECE_TTL = 30  # and for each of its pieces, since the first must live until the last is stored
SENT_AT_LEAST = 64 * 1024  # bytes that are noted for the bill at a time: a lone small outcome costs no command for that
BODIES_AT_ONCE = 16  # bodies that are fetched from records in one round trip
_IN_RECORD = f" {IN_RECORD} ".encode()  # in a head


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
        pieces = f"{name}:{count_pieces(sealed)}"
        keys = list(self._keys(pieces))
        for n, key in enumerate(keys):
            piece = view[n * PIECE_BYTES : (n + 1) * PIECE_BYTES]
            script("put")(self._bulk, (key,), (piece, UNTAKEN_TTL + PIECE_TTL * len(keys)))
        return pieces, b""

    def put_part(self, part: Part) -> None:
        """Store what calls share, unless it is there already; it is then kept for long enough to send a call."""
        keys = list(self._keys(_name_part(part)))
        if not script("keep")(self._redis, keys, (UNTAKEN_TTL,)):
            self.put(part.id, part.sealed, always=True)

    def drop(self, name: str, sealed: bytes) -> None:
        """Remove a large payload."""
        self._redis.unlink(*self._keys(f"{name}:{count_pieces(sealed)}"))

    def drop_part(self, part: Part) -> None:
        """Remove what calls shared."""
        self._redis.unlink(f"{self._prefix}:uses:{part.id}", *self._keys(_name_part(part)))

    def claimed(self, answer: Sequence[Sequence[bytes]], known: Mapping[str, Part]) -> list[ClaimedCall]:
        """Calls as a script has claimed them. `known`: parts that are here already."""
        fetched = dict(known)
        return [self._claimed(head, body, name, fetched) for head, body, name in answer]

    def mail(self, entries: Sequence[Mapping[bytes, bytes]], known: Mapping[str, Part]) -> Mail:
        """The entries of an inbox. `known`: as above. What nobody of ours wrote is passed over."""
        calls, kills, fetched = [], [], dict(known)
        for fields in entries:
            with self._damage_told("an entry of an inbox"):
                if b"kill" in fields:
                    kills.append(damage.word(fields[b"kill"], "id"))
                else:
                    calls.append(self._claimed(fields[b"call"], fields[b"body"], fields[b"name"], fetched))
        return Mail(calls, kills)

    def _claimed(self, head: bytes, body: bytes, name: bytes, fetched: dict[str, Part]) -> ClaimedCall:
        """A call as `as_told` in lua/lib_claim.lua has made it, which has checked it."""
        call_id, attempt, pieces, losses, raised, *parts = head.decode().split()
        for part in parts:
            part_id, _ = damage.pieces(part)
            if part_id not in fetched:
                fetched[part_id] = Part(part_id, self._get(part, b""))
        sealed = self._get(pieces, body)
        shared = [fetched[damage.pieces(part)[0]] for part in parts]
        return ClaimedCall(
            call_id,
            int(attempt),
            sealed,
            losses=int(losses),
            raised=int(raised),
            parts=shared,
            name=read_name(name),
        )

    def news(self, entries: Sequence[Mapping[bytes, bytes]]) -> Iterator[Outcome | Report | None]:
        """The entries of a client's stream, one after the other: what is large is fetched when it is asked for.

        None for one that nobody of ours wrote.
        """
        for at in range(0, len(entries), BODIES_AT_ONCE):
            some = entries[at : at + BODIES_AT_ONCE]
            kept = self._kept_in_records(some)
            for fields in some:
                heard: Outcome | Report | None = None
                with self._damage_told("an entry of an outcome stream"):
                    if b"report" in fields:
                        heard = self._report(fields)
                    else:
                        heard = self._outcome(fields.get(b"head"), fields[b"body"], fields.get(b"logs", b""), kept)
                yield heard

    @staticmethod
    @contextlib.contextmanager
    def _damage_told(what: str) -> Iterator[None]:
        """Whoever wrote an entry must not stop its reader from reading on."""
        try:
            yield
        except Exception as exc:
            if isinstance(exc, redis.RedisError) and not is_damage(exc):
                raise
            damage.tell_once(what, exc)

    def _kept_in_records(self, entries: Sequence[Mapping[bytes, bytes]]) -> dict[str, Any]:
        """What the records have of the outcomes whose entries have it not; or an error for one of them."""
        heads = [fields.get(b"head", b"") for fields in entries]
        ids = [head.split()[0].decode(errors="replace") for head in heads if _IN_RECORD in head]
        if not ids:
            return {}
        pipe = self._redis.pipeline(transaction=False)
        for call_id in ids:
            pipe.hmget(f"{self._prefix}:call:{call_id}", ["outcome_pieces", "outcome", "finished"])
        return dict(zip(ids, pipe.execute(raise_on_error=False), strict=True))

    def _report(self, fields: Mapping[bytes, bytes]) -> Report:
        call_id, attempt, kind, number, pieces = damage.words(fields[b"report"], "report", 5)
        body = self._get(pieces, fields[b"body"])
        return Report(call_id, _attempt(attempt), kind, damage.whole(number, "number of an item"), body)

    def attached(self, answer: Sequence[bytes]) -> Attached:
        """A call as the script `attach` tells it."""
        head, body, logs, progress, lane, name = answer
        call = self._outcome(head, body, logs, {})
        info = CallInfo(call.state, call.attempt, call.machine_id, call.region, call.times, name=read_name(name))
        return Attached(info, call if call.state.final else None, progress, damage.word(lane, "lane"))

    def _outcome(self, head: bytes | None, body: bytes, logs: bytes, kept: Mapping[str, Any]) -> Outcome:
        """What `outcome_head` in lua/lib_tell.lua has made."""
        call_id, state, attempt, machine_id, region, pieces, *times = damage.words(head, "outcome", 9)
        if pieces == IN_RECORD:
            pieces, body = _in_record(kept.get(call_id, ()), times[-1])
        where = (_text(machine_id), _text(region))
        sealed, ended = self._get(pieces, body), damage.state(state)
        return Outcome(call_id, _attempt(attempt), ended, *where, sealed, logs, read_times(times))

    def _get(self, pieces: str, inline: bytes) -> bytes:
        if pieces == "-":
            return inline
        # One at a time: together they may be larger than what a provider answers in one go.
        bodies: list[Any] = []
        for key in self._keys(pieces):
            try:
                piece: Any = self._bulk.getrange(key, 0, PIECE_BYTES)  # one byte more than a piece of ours has
            except redis.ResponseError as exc:
                if not is_damage(exc):
                    raise
                piece = b""
            if not piece or len(piece) > PIECE_BYTES:
                return b""  # it has expired, or is somebody else's: no payload is empty
            bodies.append(piece)
        return b"".join(bodies)

    def _keys(self, pieces: str) -> Iterator[str]:
        name, number = damage.pieces(pieces)
        return (f"{self._prefix}:piece:{name}:{n}" for n in range(1, number + 1))


def further_fields(call: Call) -> list[str | bytes]:
    """What the record of a call holds beside what all have: names and values."""
    fields: list[str | bytes] = []
    if call.expires:
        fields += ("expires", str(int(call.expires * 1000)), "expired", call.expired)
    if call.pointers:
        fields += ("pointers", " ".join(call.pointers))
    if call.bigger:
        fields += ("bigger", " ".join(call.bigger))
    if call.parts:
        fields += ("parts", " ".join(_name_part(part) for part in call.parts))
    return fields


def name_of(news: Outcome | Report) -> str:
    """The name of the keys of a large outcome or item: each attempt has its own."""
    number = f".{news.number}" if isinstance(news, Report) else ""
    return f"{news.id}.{news.attempt}{number}"


def _name_part(part: Part) -> str:
    return f"{part.id}:{count_pieces(part.sealed)}"


def count_pieces(sealed: bytes) -> int:
    """How many keys a large payload has."""
    return -(-len(sealed) // PIECE_BYTES)


def read_times(milliseconds: Sequence[bytes | str | None]) -> Times:
    """Times as Redis keeps them."""
    return Times(*map(damage.seconds, milliseconds))


def _in_record(record: Any, finished: str) -> tuple[str, bytes]:
    """Chunks and body of an outcome whose record has them: if that is still of the call which ended at this time."""
    if isinstance(record, redis.RedisError):
        raise record
    pieces, body, ended = (value or b"" for value in record or (b"", b"", b""))
    if ended.decode(errors="replace") != finished:
        return "-", b""  # it has expired meanwhile, and its key may name another call
    return damage.word(pieces, "pieces") or "-", body


def _attempt(value: str) -> int:
    return damage.whole(value, "attempt", damage.MOST_ATTEMPTS)


def _text(word: str) -> str:
    return "" if word == "-" else word
