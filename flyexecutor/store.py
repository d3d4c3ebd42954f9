"""Level 3: the only module that knows Redis. Each verb is one function, in the order of a call's way (steps 3 to 9).

Every change of a call's state is one atomic script from `lua/`; `lua/lib.lua` opens with the keys. Sealed bytes pass
through unread. Errors of redis-py end here as RedisUnavailableError, with the server's address but not its password.
Owns connections and no thread: whoever calls a verb waits for it. Retrying is the caller's business, since only the
caller knows what a lost answer means to it.
"""

import functools
import hashlib
import importlib.resources
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flyexecutor.call import Call, CallInfo, ClaimedCall, Outcome, Part, Report, Times
from flyexecutor.lane import Lane
from flyexecutor.reader import (
    BLOCK_LIMIT,
    CONNECT_TIMEOUT,
    BlockingReader,
    Delivered,
    OrderReader,
    OutcomeReader,
    unavailable,
)
from flyexecutor.settings import redact
from flyexecutor.states import State

INLINE_BYTES = 256 * 1024  # a larger payload has its own keys, so that no entry of a stream is large
CHUNK_BYTES = 4 * 1024 * 1024  # Upstash refuses a request over 10 MB
BATCH_BYTES = 8 * 1024 * 1024  # of payloads in one script call, for the same reason
RESERVATION_TTL = 15.0  # seconds in which a client must turn it into a machine, or renew it: it may have died
UNFINISHED_TTL = 7 * 86400  # seconds that a call which never ends, and an unused queue, are kept
ANSWER_TIMEOUT = 20.0  # above what 10 MB take on a slow line
QUICK_TIMEOUT = 0.3  # for what may be called on an event loop: cancel, state

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LaneLook:
    """What Redis says of a lane to a fleet."""

    reservations: Sequence[str]  # granted to the asker, who must turn each into a machine or release it
    workers: dict[str, str]  # machine -> time of its join, opaque
    starts: frozenset[str]  # reservations and machines on their way
    due: float | None  # seconds until a call that waits for its retry, or its end, is due


@dataclass(frozen=True, slots=True)
class Attached:
    """What Redis knows of a call that a client attaches to."""

    info: CallInfo
    outcome: Outcome | None  # None: it has not ended
    progress: bytes  # what it last said; empty: nothing


def _translated(fn: Callable[P, T]) -> Callable[P, T]:
    """Errors of redis-py as ours."""

    @functools.wraps(fn)
    def verb(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return fn(*args, **kwargs)
        except redis.RedisError as exc:
            store = args[0]
            raise unavailable(store.address, exc) from None  # type: ignore[attr-defined]

    return verb


class _Script:
    """One Lua file with `lib.lua` before it, by EVALSHA; sent whole only if the server does not have it yet."""

    def __init__(self, name: str) -> None:
        folder = importlib.resources.files("flyexecutor") / "lua"
        self._text = (folder / "lib.lua").read_text() + (folder / f"{name}.lua").read_text()
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, client: "redis.Redis", keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            return client.evalsha(self._sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            return client.eval(self._text, len(keys), *keys, *args)


_script = functools.cache(_Script)


class Store:
    """The records of one app in one Redis. Safe to use from several threads, and after a fork."""

    def __init__(self, redis_url: str, app: str) -> None:
        self.address = redact(redis_url)
        self._prefix = f"fly:{{{app}}}"  # braces: the hash tag of Redis Cluster
        self._redis = self._connect(redis_url, ANSWER_TIMEOUT)
        self._quick = self._connect(redis_url, QUICK_TIMEOUT)
        self._blocking = self._connect(redis_url, BLOCK_LIMIT + CONNECT_TIMEOUT)

    def __repr__(self) -> str:
        return f"<Store {self._prefix} at {self.address}>"

    @staticmethod
    def _connect(url: str, timeout: float) -> "redis.Redis":
        return redis.Redis.from_url(
            url,
            protocol=2,
            socket_connect_timeout=min(timeout, CONNECT_TIMEOUT),
            socket_timeout=timeout,
            socket_keepalive=True,
            # Never by itself: a claim whose answer was lost must not be followed by a second claim.
            retry=Retry(NoBackoff(), 0),
        )

    def close(self) -> None:
        """Close the idle connections; one that a thread still waits on closes when it is done."""
        for client in (self._redis, self._quick):
            client.connection_pool.disconnect(inuse_connections=False)

    # Steps 3 and 4: the outbox

    @_translated
    def enqueue(
        self, lane: Lane, calls: Sequence[Call], *, client: str, result_ttl: float, reservation: str
    ) -> Sequence[str]:
        """Store calls as QUEUED. Answers the reservations that the asker must turn into machines.

        May be sent again: calls that are stored already are passed over.
        """
        told: list[Any] = []
        for call in calls:
            chunks, inline = self._put_chunks(call.id, "call", call.sealed)
            further = _further(call)
            told += (call.id, call.retries, int(call.keep), chunks, inline, len(further), *further)
        fixed = (self._prefix, lane.name, lane.max_workers, lane.concurrency, int(RESERVATION_TTL * 1000))
        return _texts(
            _script("enqueue")(
                self._redis,
                self._lane_keys(lane.name),
                (*fixed, reservation, client, max(1, int(result_ttl)), UNFINISHED_TTL, *told),
            )
        )

    @_translated
    def put_part(self, part: Part) -> None:
        """Store what several calls share, before the first of them is stored."""
        self._put_chunks(part.id, "part", part.sealed, inline_bytes=0)

    @_translated
    def drop_part(self, part: Part) -> None:
        """Remove what several calls shared, once they have all ended."""
        self._redis.unlink(*self._chunk_keys(part.id, "part", _chunks(part.sealed)))

    # Step 5: the fleet

    @_translated
    def look(self, lane: Lane, reservation: str, held: Iterable[str] = ()) -> LaneLook:
        """See a lane, reserve the machines that it misses, and renew the reservations that the asker holds."""
        fixed = (self._prefix, reservation, lane.max_workers, lane.concurrency, int(RESERVATION_TTL * 1000))
        granted, workers, starts, due = _script("reserve")(self._redis, self._lane_keys(lane.name), (*fixed, *held))
        flat = _texts(workers)
        joined = dict(zip(flat[::2], flat[1::2], strict=True))
        return LaneLook(_texts(granted), joined, frozenset(_texts(starts)), _seconds(due))

    @_translated
    def assign(self, lane: Lane, reservation: str, machine_id: str) -> bool:
        """Turn a reservation into a machine that is about to start; False if another client has it."""
        return bool(
            _script("assign")(
                self._redis, self._lane_keys(lane.name)[1:], (reservation, machine_id, int(lane.boot_timeout * 1000))
            )
        )

    @_translated
    def has_workers(self, lane: Lane) -> bool:
        """Whether any worker is there."""
        return bool(self._redis.hlen(self._key("workers", lane.name)))

    @_translated
    def release(self, lane: Lane, name: str) -> None:
        """Give back a reservation, or a machine that will not come."""
        self._redis.zrem(self._key("starts", lane.name), name)

    @_translated
    def bury(self, lane: Lane, machine_id: str, joined: str, reason: str, *, oom: bool) -> int:
        """Free the calls of a machine that is gone: queued again, or LOST. Answers how many they were."""
        told = (self._prefix, machine_id, joined, reason, int(oom))
        return int(_script("bury")(self._redis, self._lane_keys(lane.name)[:2], told))

    @_translated
    def fail(self, lane: str, failed: Sequence[tuple[str, bytes]]) -> None:
        """End calls (id, sealed error) of a lane that still wait and can't have a machine."""
        _script("fail")(self._redis, (), (self._prefix, lane, *(part for pair in failed for part in pair)))

    @_translated
    def try_lock(self, name: str, owner: str, seconds: float) -> bool:
        """Whether the asker may do, for so long, what one client does for all."""
        return bool(self._redis.set(self._key("lock", name), owner, nx=True, px=int(seconds * 1000)))

    # Steps 6 to 8: the worker

    @_translated
    def join(self, lane: str, machine_id: str, *, first: bool, held: Iterable[str] = ()) -> float | None:
        """A worker is there; what its machine had claimed and does not hold is queued again.

        Answers the seconds until a call is due (None: none is): call `tend_due` then.
        """
        told = (self._prefix, machine_id, UNFINISHED_TTL, int(first), *held)
        return _seconds(_script("join")(self._redis, self._lane_keys(lane), told))

    @_translated
    def tend_due(self, lane: str) -> float | None:
        """Queue the calls that have waited for their retry, end those that have expired. Answers as `join` does."""
        return _seconds(_script("due")(self._redis, (self._key("queue", lane),), (self._prefix,)))

    def deliveries(self, lane: str, machine_id: str) -> BlockingReader:
        """A reader of the lane's queue for this machine, on a connection of its own."""
        queue = self._key("queue", lane)

        def commands(block_ms: int) -> list[tuple[str | int, ...]]:
            group = ("GROUP", "workers", machine_id, "COUNT", 1, "BLOCK", block_ms)
            return [("XREADGROUP", *group, "STREAMS", queue, ">")]

        return BlockingReader(self._blocking, self.address, commands)

    @_translated
    def claim(
        self,
        lane: str,
        machine_id: str,
        region: str,
        delivered: Sequence[Delivered],
        more: int,
        known: Mapping[str, Part] = MappingProxyType({}),
    ) -> list[ClaimedCall]:
        """Mark delivered calls as RUNNING, and up to `more` others that wait. `known`: parts that are here already."""
        told = [part for one in delivered for part in (one.entry, one.call_id)]
        keys = (self._key("queue", lane),)
        return self._claimed(
            _script("claim")(self._redis, keys, (self._prefix, machine_id, region, more, *told)), known
        )

    @_translated
    def finish(
        self,
        lane: str,
        machine_id: str,
        region: str,
        outcomes: Sequence[Outcome],
        more: int,
        known: Mapping[str, Part] = MappingProxyType({}),
    ) -> list[ClaimedCall]:
        """Store and publish outcomes, and claim up to `more` calls in the same trip.

        May be sent again: an outcome whose call has ended already changes nothing.
        """
        told: list[Any] = []
        for outcome in outcomes:
            chunks, inline = self._put_chunks(outcome.id, "outcome", outcome.sealed)
            told += (outcome.id, outcome.attempt, outcome.state.value, chunks, inline, outcome.logs)
        keys = (self._key("queue", lane),)
        return self._claimed(
            _script("finish")(self._redis, keys, (self._prefix, machine_id, region, more, *told)), known
        )

    @_translated
    def hand_back(self, lane: str, calls: Sequence[ClaimedCall]) -> None:
        """Queue claimed calls again that were not begun."""
        told = [part for call in calls for part in (call.id, call.attempt)]
        _script("hand_back")(self._redis, (self._key("queue", lane),), (self._prefix, *told))

    @_translated
    def retry(self, lane: str, call: ClaimedCall, wait: float) -> None:
        """Queue a call again that raised, after `wait` seconds."""
        told = (self._prefix, call.id, call.attempt, int(wait * 1000))
        _script("retry")(self._redis, (self._key("queue", lane),), told)

    @_translated
    def outgrow(self, lane: str, machine_id: str, region: str, call: ClaimedCall, reason: str, logs: bytes) -> None:
        """A call ran out of memory: it goes to a larger machine if it may, else it is LOST."""
        told = (self._prefix, machine_id, region, call.id, call.attempt, reason, logs)
        _script("outgrow")(self._redis, (self._key("queue", lane),), told)

    @_translated
    def report(self, reports: Sequence[Report]) -> int:
        """Tell what running calls say. Answers how much of what was told some client has not read yet."""
        told: list[Any] = []
        for one in reports:
            chunks, inline = self._put_chunks(one.id, f"item{one.number}", one.body)
            told += (one.id, one.attempt, one.kind, one.number, chunks, inline)
        return int(_script("report")(self._redis, (), (self._prefix, *told)))

    def orders(self, machine_id: str) -> OrderReader:
        """A reader of the calls that this machine's worker shall kill, on a connection of its own."""
        return OrderReader(self._blocking, self.address, self._key("orders", machine_id))

    @_translated
    def leave(self, lane: str, machine_id: str, *, must: bool, soon: float = 0.0) -> float | None:
        """A worker goes, and hands back what it holds. None: it has left. Else it has to stay (unless it must go):
        calls wait, or are due within `soon` seconds; the answer is the seconds until then.
        """
        told = (self._prefix, machine_id, int(must), int(soon * 1000))
        return _seconds(_script("leave")(self._redis, self._lane_keys(lane)[:2], told))

    # Step 9: the watcher, and futures

    def outcomes(self, client: str) -> OutcomeReader:
        """A reader of this client's outcomes."""
        return OutcomeReader(self._blocking, self.address, self._key("outcomes", client), self._read_news)

    @_translated
    def attach(self, call_id: str, client: str) -> Attached | None:
        """Let a client hear of a call. None if Redis does not know it."""
        answer = _script("attach")(self._redis, (self._key("call", call_id),), (client,))
        return self._attached(call_id, answer) if answer else None

    @_translated
    def cancel(self, call_ids: Sequence[str]) -> list[str]:
        """Take back the calls that are still queued. Answers within a fraction of a second; those that were."""
        taken = _script("cancel")(self._quick, (), (self._prefix, *call_ids))
        return [call_id for call_id, one in zip(call_ids, taken, strict=True) if one]

    @_translated
    def kill(self, call_id: str) -> State | None:
        """Have the worker stop a running call; takes back a queued one. Answers its state before that."""
        state = _script("kill")(self._quick, (self._key("call", call_id),), (self._prefix, call_id))
        return State(state.decode()) if state else None

    @_translated
    def info(self, call_id: str) -> CallInfo | None:
        """How a call stands now. Answers within a fraction of a second."""
        names = ["state", "attempt", "machine", "region", "queued", "started", "finished"]
        told: Any = self._quick.pipeline(transaction=False)
        told.hmget(self._key("call", call_id), names).pttl(self._key("call", call_id))
        (state, attempt, machine_id, region, *times), left = told.execute()
        if not state:
            return None
        final = State(state.decode()).final
        return CallInfo(
            State(state.decode()),
            int(attempt),
            (machine_id or b"").decode(),
            (region or b"").decode(),
            _times(times),
            time.time() + left / 1000 if final else None,
        )

    @_translated
    def logs(self, call_id: str) -> bytes:
        """The end of what a call has printed."""
        told: Any = self._quick.hget(self._key("call", call_id), "logs")
        return bytes(told or b"")

    @_translated
    def batch(self, batch_id: str) -> list[tuple[str, State | None]]:
        """The calls of a batch, in order, with their states; None for one that is no longer known."""
        ids, states = _script("batch")(self._redis, (self._key("batch", batch_id),), (self._prefix,))
        return [
            (call_id.decode(), State(state.decode()) if state else None)
            for call_id, state in zip(ids, states, strict=True)
        ]

    @_translated
    def missing(self, call_ids: Sequence[str]) -> list[str]:
        """Those of the calls that Redis does not know (any more)."""
        pipe = self._redis.pipeline(transaction=False)
        for call_id in call_ids:
            pipe.exists(self._key("call", call_id))
        return [call_id for call_id, there in zip(call_ids, pipe.execute(), strict=True) if not there]

    @_translated
    def drop_outcome(self, outcome: Outcome) -> None:
        """Remove the parts of a large outcome that nobody will ask for again."""
        self._redis.unlink(*self._chunk_keys(outcome.id, "outcome", _chunks(outcome.sealed)))

    # Within

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{name}"

    def _lane_keys(self, lane: str) -> list[str]:
        return [self._key("queue", lane), self._key("workers", lane), self._key("starts", lane)]

    def _chunk_keys(self, call_id: str, direction: str, chunks: int) -> list[str]:
        return [self._key("chunk", f"{call_id}:{direction}:{n}") for n in range(1, chunks + 1)]

    def _put_chunks(
        self, name: str, kind: str, sealed: bytes, *, inline_bytes: int = INLINE_BYTES
    ) -> tuple[int, bytes]:
        """Store a large payload in keys of its own. Answers how many, and what is left to send inline."""
        if len(sealed) <= inline_bytes:
            return 0, sealed
        view = memoryview(sealed)
        keys = self._chunk_keys(name, kind, _chunks(sealed))
        for n, key in enumerate(keys):
            self._redis.set(key, view[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES], ex=UNFINISHED_TTL)
        return len(keys), b""

    def _get_chunks(self, name: str, kind: str, chunks: int, inline: bytes) -> bytes:
        if not chunks:
            return inline
        # One a time: together they may be larger than what a provider answers in one go.
        parts: list[Any] = [self._redis.get(key) for key in self._chunk_keys(name, kind, chunks)]
        return b"".join(part or b"" for part in parts)  # a missing part does not verify, and is told so

    def _claimed(self, answer: Sequence[Sequence[bytes]], known: Mapping[str, Part]) -> list[ClaimedCall]:
        claimed = []
        fetched = dict(known)
        for head, body in answer:
            call_id, attempt, chunks, timeout, raised, *parts = head.decode().split()
            for told in parts:
                part_id, part_chunks = told.split(":")
                if part_id not in fetched:
                    fetched[part_id] = Part(part_id, self._get_chunks(part_id, "part", int(part_chunks), b""))
            claimed.append(
                ClaimedCall(
                    call_id,
                    int(attempt),
                    self._get_chunks(call_id, "call", int(chunks), body),
                    float(timeout),
                    int(raised),
                    [fetched[told.split(":")[0]] for told in parts],
                )
            )
        return claimed

    @_translated
    def _read_news(self, fields: dict[bytes, bytes]) -> Outcome | Report:
        if b"report" in fields:
            call_id, attempt, kind, number, chunks = fields[b"report"].decode().split()
            body = self._get_chunks(call_id, f"item{number}", int(chunks), fields[b"body"])
            if int(chunks):
                self._redis.unlink(*self._chunk_keys(call_id, f"item{number}", int(chunks)))
            return Report(call_id, int(attempt), kind, int(number), body)
        call_id, _, head = fields[b"head"].decode().partition(" ")
        return self._outcome(call_id, head.split(), fields[b"body"], fields.get(b"logs", b""))

    def _attached(self, call_id: str, answer: Sequence[bytes]) -> Attached:
        head, body, logs, progress = answer
        words = head.decode().split()
        outcome = self._outcome(call_id, words, body, logs) if State(words[0]).final else None
        state, attempt, machine_id, region, _, *times = words
        info = CallInfo(State(state), int(attempt), _text(machine_id), _text(region), _times(times))
        return Attached(info, outcome, progress)

    def _outcome(self, call_id: str, words: Sequence[str], body: bytes, logs: bytes) -> Outcome:
        state, attempt, machine_id, region, chunks, *times = words
        sealed = self._get_chunks(call_id, "outcome", int(chunks), body)
        return Outcome(
            call_id, int(attempt), State(state), _text(machine_id), _text(region), sealed, logs, _times(times)
        )


def _further(call: Call) -> list[str | bytes]:
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
        told += ("parts", " ".join(f"{part.id}:{_chunks(part.sealed)}" for part in call.parts))
    return told


def _chunks(sealed: bytes) -> int:
    return -(-len(sealed) // CHUNK_BYTES)


def _seconds(milliseconds: int) -> float | None:
    return None if milliseconds < 0 else milliseconds / 1000


def _text(word: str) -> str:
    return "" if word == "-" else word


def _times(milliseconds: Sequence[bytes | str | None]) -> Times:
    return Times(*(int(at or 0) / 1000 for at in milliseconds))


def _texts(answer: Sequence[bytes]) -> list[str]:
    return [part.decode() for part in answer]
