"""Level 3: the only module that knows Redis. Each verb is one function, in the order of a call's way (steps 3 to 9).

Every change of a call's state is one atomic script from `lua/`; `lua/lib.lua` opens with the keys. Sealed bytes pass
through unread. Errors of redis-py end here as RedisUnavailableError, with the server's address but not its password.
Owns connections and no thread: whoever calls a verb waits for it. Retrying is the caller's business, since only the
caller knows what a lost answer means to it.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flyexecutor.call import Call, CallInfo, ClaimedCall, Outcome, Part, Report
from flyexecutor.lane import Lane
from flyexecutor.reader import (
    BLOCK_LIMIT,
    CONNECT_TIMEOUT,
    BlockingReader,
    Delivered,
    OrderReader,
    OutcomeReader,
)
from flyexecutor.records import UNFINISHED_TTL, Attached, Records, further_fields, name_of, read_times
from flyexecutor.scripts import script, translated
from flyexecutor.settings import redact
from flyexecutor.states import State

BATCH_BYTES = 8 * 1024 * 1024  # of payloads in one script call: Upstash refuses a request over 10 MB
RESERVATION_TTL = 15.0  # seconds in which a client must turn it into a machine, or renew it: it may have died
ANSWER_TIMEOUT = 20.0  # above what 10 MB take on a slow line
QUICK_TIMEOUT = 0.3  # for what may be called on an event loop: cancel, state


@dataclass(frozen=True, slots=True)
class LaneLook:
    """What Redis says of a lane to a fleet."""

    reservations: Sequence[str]  # granted to the asker, who must turn each into a machine or release it
    workers: dict[str, str]  # machine -> time of its join, opaque
    starts: frozenset[str]  # reservations and machines on their way
    due: float | None  # seconds until a call that waits for its retry, or its end, is due


class Store:
    """The records of one app in one Redis. Safe to use from several threads, and after a fork."""

    def __init__(self, redis_url: str, app: str) -> None:
        self.address = redact(redis_url)
        self._prefix = f"fly:{{{app}}}"  # braces: the hash tag of Redis Cluster
        self._redis = self._connect(redis_url, ANSWER_TIMEOUT)
        self._quick = self._connect(redis_url, QUICK_TIMEOUT)
        self._blocking = self._connect(redis_url, BLOCK_LIMIT + CONNECT_TIMEOUT)
        self._records = Records(self._redis, self._prefix)

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

    @translated
    def enqueue(
        self, lane: Lane, calls: Sequence[Call], *, client: str, result_ttl: float, reservation: str
    ) -> Sequence[str]:
        """Store calls as QUEUED. Answers the reservations that the asker must turn into machines.

        May be sent again: calls that are stored already are passed over.
        """
        told: list[Any] = []
        for n, call in enumerate(calls):
            chunks, inline = self._records.put(f"{reservation}.{n}", call.sealed)
            further = further_fields(call)
            told += (call.id, call.retries, int(call.keep), chunks, inline, len(further), *further)
        fixed = (self._prefix, lane.name, lane.max_workers, lane.concurrency, int(RESERVATION_TTL * 1000))
        return _texts(
            script("enqueue")(
                self._redis,
                self._lane_keys(lane.name),
                (*fixed, reservation, client, max(1, int(result_ttl)), UNFINISHED_TTL, *told),
            )
        )

    @translated
    def put_part(self, part: Part) -> None:
        """Store what several calls share, before the first of them is stored."""
        self._records.put(part.id, part.sealed, always=True)

    @translated
    def drop_part(self, part: Part) -> None:
        """Remove what several calls shared, once they have all ended."""
        self._records.drop(part.id, part.sealed)

    # Step 5: the fleet

    @translated
    def look(self, lane: Lane, reservation: str, held: Iterable[str] = ()) -> LaneLook:
        """See a lane, reserve the machines that it misses, and renew the reservations that the asker holds."""
        fixed = (self._prefix, reservation, lane.max_workers, lane.concurrency, int(RESERVATION_TTL * 1000))
        granted, workers, starts, due = script("reserve")(self._redis, self._lane_keys(lane.name), (*fixed, *held))
        flat = _texts(workers)
        joined = dict(zip(flat[::2], flat[1::2], strict=True))
        return LaneLook(_texts(granted), joined, frozenset(_texts(starts)), _seconds(due))

    @translated
    def assign(self, lane: Lane, reservation: str, machine_id: str) -> bool:
        """Turn a reservation into a machine that is about to start; False if another client has it."""
        return bool(
            script("assign")(
                self._redis, self._lane_keys(lane.name)[1:], (reservation, machine_id, int(lane.boot_timeout * 1000))
            )
        )

    @translated
    def has_workers(self, lane: Lane) -> bool:
        """Whether any worker is there."""
        return bool(self._redis.hlen(self._key("workers", lane.name)))

    @translated
    def release(self, lane: Lane, name: str) -> None:
        """Give back a reservation, or a machine that will not come."""
        self._redis.zrem(self._key("starts", lane.name), name)

    @translated
    def bury(self, lane: Lane, machine_id: str, joined: str, reason: str, *, oom: bool) -> int:
        """Free the calls of a machine that is gone: queued again, or LOST. Answers how many they were."""
        told = (self._prefix, machine_id, joined, reason, int(oom))
        return int(script("bury")(self._redis, self._lane_keys(lane.name)[:2], told))

    @translated
    def fail(self, lane: str, failed: Sequence[tuple[str, bytes]]) -> None:
        """End calls (id, sealed error) of a lane that still wait and can't have a machine."""
        script("fail")(self._redis, (), (self._prefix, lane, *(part for pair in failed for part in pair)))

    @translated
    def try_lock(self, name: str, owner: str, seconds: float) -> bool:
        """Whether the asker may do, for so long, what one client does for all."""
        return bool(self._redis.set(self._key("lock", name), owner, nx=True, px=int(seconds * 1000)))

    # Steps 6 to 8: the worker

    @translated
    def join(self, lane: str, machine_id: str, *, first: bool, held: Iterable[str] = ()) -> float | None:
        """A worker is there; what its machine had claimed and does not hold is queued again.

        Answers the seconds until a call is due (None: none is): call `tend_due` then.
        """
        told = (self._prefix, machine_id, UNFINISHED_TTL, int(first), *held)
        return _seconds(script("join")(self._redis, self._lane_keys(lane), told))

    @translated
    def tend_due(self, lane: str) -> float | None:
        """Queue the calls that have waited for their retry, end those that have expired. Answers as `join` does."""
        return _seconds(script("due")(self._redis, (self._key("queue", lane),), (self._prefix,)))

    def deliveries(self, lane: str, machine_id: str) -> BlockingReader:
        """A reader of the lane's queue for this machine, on a connection of its own."""
        queue = self._key("queue", lane)

        def commands(block_ms: int) -> list[tuple[str | int, ...]]:
            group = ("GROUP", "workers", machine_id, "COUNT", 1, "BLOCK", block_ms)
            return [("XREADGROUP", *group, "STREAMS", queue, ">")]

        return BlockingReader(self._blocking, self.address, commands)

    @translated
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
        return self._records.claimed(
            script("claim")(self._redis, keys, (self._prefix, machine_id, region, more, *told)), known
        )

    @translated
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
            chunks, inline = self._records.put(name_of(outcome), outcome.sealed)
            told += (outcome.id, outcome.attempt, outcome.state.value, chunks, inline, outcome.logs)
        keys = (self._key("queue", lane),)
        return self._records.claimed(
            script("finish")(self._redis, keys, (self._prefix, machine_id, region, more, *told)), known
        )

    @translated
    def hand_back(self, lane: str, calls: Sequence[ClaimedCall]) -> None:
        """Queue claimed calls again that were not begun."""
        told = [part for call in calls for part in (call.id, call.attempt)]
        script("hand_back")(self._redis, (self._key("queue", lane),), (self._prefix, *told))

    @translated
    def retry(self, lane: str, call: ClaimedCall, wait: float) -> None:
        """Queue a call again that raised, after `wait` seconds."""
        told = (self._prefix, call.id, call.attempt, int(wait * 1000))
        script("retry")(self._redis, (self._key("queue", lane),), told)

    @translated
    def outgrow(self, lane: str, machine_id: str, region: str, call: ClaimedCall, reason: str, logs: bytes) -> None:
        """A call ran out of memory: it goes to a larger machine if it may, else it is LOST."""
        told = (self._prefix, machine_id, region, call.id, call.attempt, reason, logs)
        script("outgrow")(self._redis, (self._key("queue", lane),), told)

    @translated
    def report(self, reports: Sequence[Report]) -> int:
        """Tell what running calls say. Answers how much of what was told some client has not read yet."""
        told: list[Any] = []
        for one in reports:
            chunks, inline = self._records.put(name_of(one), one.body)
            told += (one.id, one.attempt, one.kind, one.number, chunks, inline)
        return int(script("report")(self._redis, (), (self._prefix, *told)))

    def orders(self, machine_id: str) -> OrderReader:
        """A reader of the calls that this machine's worker shall kill, on a connection of its own."""
        return OrderReader(self._blocking, self.address, self._key("orders", machine_id))

    @translated
    def leave(self, lane: str, machine_id: str, *, must: bool, soon: float = 0.0) -> float | None:
        """A worker goes, and hands back what it holds. None: it has left. Else it has to stay (unless it must go):
        calls wait, or are due within `soon` seconds; the answer is the seconds until then.
        """
        told = (self._prefix, machine_id, int(must), int(soon * 1000))
        return _seconds(script("leave")(self._redis, self._lane_keys(lane)[:2], told))

    # Step 9: the watcher, and futures

    def outcomes(self, client: str) -> OutcomeReader:
        """A reader of this client's outcomes."""
        return OutcomeReader(self._blocking, self.address, self._key("outcomes", client), self._read_news)

    @translated
    def attach(self, call_id: str, client: str) -> Attached | None:
        """Let a client hear of a call. None if Redis does not know it."""
        answer = script("attach")(self._redis, (self._key("call", call_id),), (client,))
        return self._records.attached(call_id, answer) if answer else None

    @translated
    def cancel(self, call_ids: Sequence[str]) -> list[str]:
        """Take back the calls that are still queued. Answers within a fraction of a second; those that were."""
        taken = script("cancel")(self._quick, (), (self._prefix, *call_ids))
        return [call_id for call_id, one in zip(call_ids, taken, strict=True) if one]

    @translated
    def kill(self, call_id: str) -> State | None:
        """Have the worker stop a running call; takes back a queued one. Answers its state before that."""
        state = script("kill")(self._quick, (self._key("call", call_id),), (self._prefix, call_id))
        return State(state.decode()) if state else None

    @translated
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
            read_times(times),
            time.time() + left / 1000 if final else None,
        )

    @translated
    def logs(self, call_id: str) -> bytes:
        """The end of what a call has printed."""
        told: Any = self._quick.hget(self._key("call", call_id), "logs")
        return bytes(told or b"")

    @translated
    def batch(self, batch_id: str) -> list[tuple[str, State | None]]:
        """The calls of a batch, in order, with their states; None for one that is no longer known."""
        ids, states = script("batch")(self._redis, (self._key("batch", batch_id),), (self._prefix,))
        return [
            (call_id.decode(), State(state.decode()) if state else None)
            for call_id, state in zip(ids, states, strict=True)
        ]

    @translated
    def missing(self, call_ids: Sequence[str]) -> list[str]:
        """Those of the calls that Redis does not know (any more)."""
        pipe = self._redis.pipeline(transaction=False)
        for call_id in call_ids:
            pipe.exists(self._key("call", call_id))
        return [call_id for call_id, there in zip(call_ids, pipe.execute(), strict=True) if not there]

    @translated
    def drop_outcome(self, outcome: Outcome) -> None:
        """Remove the parts of a large outcome that nobody will ask for again."""
        self._records.drop(name_of(outcome), outcome.sealed)

    @translated
    def drop_item(self, item: Report) -> None:
        """Remove the parts of a large item that has been taken."""
        self._records.drop(name_of(item), item.body)

    # Within

    @translated
    def _read_news(self, fields: Mapping[bytes, bytes]) -> Outcome | Report:
        return self._records.news(fields)

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{name}"

    def _lane_keys(self, lane: str) -> list[str]:
        return [self._key("queue", lane), self._key("workers", lane), self._key("starts", lane)]


def _seconds(milliseconds: int) -> float | None:
    return None if milliseconds < 0 else milliseconds / 1000


def _texts(answer: Sequence[bytes]) -> list[str]:
    return [part.decode() for part in answer]
