"""Level 3: the only module that knows Redis. Each verb is one function, in the order of a call's way (steps 3 to 9).

Every change of a call's state is one atomic script from `lua/`; `lua/lib.lua` opens with the keys. Sealed bytes pass
through unread. Errors of redis-py end here as RedisUnavailableError, with the server's address but not its password.
Owns connections and no thread: whoever calls a verb waits for it. Retrying is the caller's business, since only the
caller knows what a lost answer means to it.
"""

import functools
import hashlib
import importlib.resources
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flyexecutor.call import Call, ClaimedCall, Outcome, Standing
from flyexecutor.lane import Lane
from flyexecutor.reader import BLOCK_LIMIT, CONNECT_TIMEOUT, BlockingReader, Delivered, OutcomeReader, unavailable
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
            told += (call.id, call.retries, int(call.keep), chunks, inline)
        fixed = (self._prefix, lane.name, lane.max_workers, lane.concurrency, int(RESERVATION_TTL * 1000))
        return _texts(
            _script("enqueue")(
                self._redis,
                self._lane_keys(lane.name),
                (*fixed, reservation, client, max(1, int(result_ttl)), UNFINISHED_TTL, *told),
            )
        )

    # Step 5: the fleet

    @_translated
    def look(self, lane: Lane, reservation: str, held: Iterable[str] = ()) -> LaneLook:
        """See a lane, reserve the machines that it misses, and renew the reservations that the asker holds."""
        told = (reservation, lane.max_workers, lane.concurrency, int(RESERVATION_TTL * 1000), *held)
        granted, workers, starts = _script("reserve")(self._redis, self._lane_keys(lane.name), told)
        flat = _texts(workers)
        return LaneLook(_texts(granted), dict(zip(flat[::2], flat[1::2], strict=True)), frozenset(_texts(starts)))

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
    def bury(self, lane: Lane, machine_id: str, joined: str, reason: str) -> int:
        """Free the calls of a machine that is gone: queued again, or LOST. Answers how many they were."""
        return int(
            _script("bury")(self._redis, self._lane_keys(lane.name)[:2], (self._prefix, machine_id, joined, reason))
        )

    @_translated
    def fail(self, failed: Sequence[tuple[str, bytes]]) -> None:
        """End calls (id, sealed error) that still wait and can't have a machine."""
        _script("fail")(self._redis, (), (self._prefix, *(part for pair in failed for part in pair)))

    @_translated
    def try_lock(self, name: str, owner: str, seconds: float) -> bool:
        """Whether the asker may do, for so long, what one client does for all."""
        return bool(self._redis.set(self._key("lock", name), owner, nx=True, px=int(seconds * 1000)))

    # Steps 6 to 8: the worker

    @_translated
    def join(self, lane: str, machine_id: str, *, first: bool, held: Iterable[str] = ()) -> None:
        """A worker is there; what its machine had claimed and does not hold is queued again."""
        _script("join")(
            self._redis, self._lane_keys(lane), (self._prefix, machine_id, UNFINISHED_TTL, int(first), *held)
        )

    def deliveries(self, lane: str, machine_id: str) -> BlockingReader:
        """A reader of the lane's queue for this machine, on a connection of its own."""
        queue = self._key("queue", lane)

        def commands(block_ms: int) -> list[tuple[str | int, ...]]:
            group = ("GROUP", "workers", machine_id, "COUNT", 1, "BLOCK", block_ms)
            return [("XREADGROUP", *group, "STREAMS", queue, ">")]

        return BlockingReader(self._blocking, self.address, commands)

    @_translated
    def claim(
        self, lane: str, machine_id: str, region: str, delivered: Sequence[Delivered], more: int
    ) -> list[ClaimedCall]:
        """Mark delivered calls as RUNNING, and up to `more` others that wait."""
        told = [part for one in delivered for part in (one.entry, one.call_id)]
        return self._claimed(
            _script("claim")(self._redis, (self._key("queue", lane),), (self._prefix, machine_id, region, more, *told))
        )

    @_translated
    def finish(
        self, lane: str, machine_id: str, region: str, outcomes: Sequence[Outcome], more: int
    ) -> list[ClaimedCall]:
        """Store and publish outcomes, and claim up to `more` calls in the same trip.

        May be sent again: an outcome whose call has ended already changes nothing.
        """
        told: list[Any] = []
        for outcome in outcomes:
            chunks, inline = self._put_chunks(outcome.id, "outcome", outcome.sealed)
            told += (outcome.id, outcome.attempt, outcome.state.value, chunks, inline)
        return self._claimed(
            _script("finish")(self._redis, (self._key("queue", lane),), (self._prefix, machine_id, region, more, *told))
        )

    @_translated
    def hand_back(self, lane: str, calls: Sequence[ClaimedCall]) -> None:
        """Queue claimed calls again that were not begun."""
        told = [part for call in calls for part in (call.id, call.attempt)]
        _script("hand_back")(self._redis, (self._key("queue", lane),), (self._prefix, *told))

    @_translated
    def leave(self, lane: str, machine_id: str, *, must: bool) -> bool:
        """A worker goes, and hands back what it holds. False: calls wait, so it has to stay (unless it must go)."""
        return bool(_script("leave")(self._redis, self._lane_keys(lane)[:2], (self._prefix, machine_id, int(must))))

    # Step 9: the watcher, and futures

    def outcomes(self, client: str) -> OutcomeReader:
        """A reader of this client's outcomes."""
        return OutcomeReader(self._blocking, self.address, self._key("outcomes", client), self._read_outcome)

    @_translated
    def attach(self, call_id: str, client: str) -> Outcome | Standing | None:
        """Let a client hear of a call. Answers its outcome if it has ended; None if Redis does not know it."""
        answer = _script("attach")(self._redis, (self._key("call", call_id),), (client,))
        if not answer:
            return None
        state, attempt, machine_id, region, chunks, body = answer
        standing = Standing(State(state.decode()), int(attempt), machine_id.decode())
        if not standing.state.final:
            return standing
        sealed = self._get_chunks(call_id, "outcome", int(chunks), body)
        return Outcome(call_id, standing.attempt, standing.state, standing.machine_id, region.decode(), sealed)

    @_translated
    def cancel(self, call_id: str) -> bool:
        """Take back a call that is still queued. Answers within a fraction of a second."""
        return bool(_script("cancel")(self._quick, (self._key("call", call_id),), (self._prefix, call_id)))

    @_translated
    def standing(self, call_id: str) -> Standing | None:
        """How a call stands now. Answers within a fraction of a second."""
        told: Any = self._quick.hmget(self._key("call", call_id), ["state", "attempt", "machine"])
        state, attempt, machine_id = told
        return Standing(State(state.decode()), int(attempt), (machine_id or b"").decode()) if state else None

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
        chunks = -(-len(outcome.sealed) // CHUNK_BYTES)
        self._redis.unlink(*self._chunk_keys(outcome.id, "outcome", chunks))

    # Within

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{name}"

    def _lane_keys(self, lane: str) -> list[str]:
        return [self._key("queue", lane), self._key("workers", lane), self._key("starts", lane)]

    def _chunk_keys(self, call_id: str, direction: str, chunks: int) -> list[str]:
        return [self._key("chunk", f"{call_id}:{direction}:{n}") for n in range(1, chunks + 1)]

    def _put_chunks(self, call_id: str, direction: str, sealed: bytes) -> tuple[int, bytes]:
        """Store a large payload in keys of its own. Answers how many, and what is left to send inline."""
        if len(sealed) <= INLINE_BYTES:
            return 0, sealed
        view = memoryview(sealed)
        keys = self._chunk_keys(call_id, direction, -(-len(sealed) // CHUNK_BYTES))
        for n, key in enumerate(keys):
            self._redis.set(key, view[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES], ex=UNFINISHED_TTL)
        return len(keys), b""

    def _get_chunks(self, call_id: str, direction: str, chunks: int, inline: bytes) -> bytes:
        if not chunks:
            return inline
        # One a time: together they may be larger than what a provider answers in one go.
        parts: list[Any] = [self._redis.get(key) for key in self._chunk_keys(call_id, direction, chunks)]
        return b"".join(part or b"" for part in parts)  # a missing part does not verify, and is told so

    def _claimed(self, answer: Sequence[Sequence[bytes]]) -> list[ClaimedCall]:
        return [
            ClaimedCall(call_id.decode(), int(attempt), self._get_chunks(call_id.decode(), "call", int(chunks), body))
            for call_id, attempt, chunks, body in answer
        ]

    @_translated
    def _read_outcome(self, fields: dict[bytes, bytes]) -> Outcome:
        call_id = fields[b"id"].decode()
        return Outcome(
            id=call_id,
            attempt=int(fields[b"attempt"]),
            state=State(fields[b"state"].decode()),
            machine_id=fields[b"machine"].decode(),
            region=fields[b"region"].decode(),
            sealed=self._get_chunks(call_id, "outcome", int(fields[b"chunks"]), fields[b"body"]),
        )


def _texts(answer: Sequence[bytes]) -> list[str]:
    return [part.decode() for part in answer]
