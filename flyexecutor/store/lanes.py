"""The half of the store that knows lanes: who works there, what starts, what it costs. For fleets and users.

Owns the connections of the store, which stands upon it, and no thread.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import redis
from redis.backoff import ExponentialBackoff
from redis.lock import Lock
from redis.retry import Retry

from flyexecutor.lane import Lane, Stats
from flyexecutor.secrecy import Address
from flyexecutor.store.connection import (
    ANSWER_TIMEOUT,
    BULK_TIMEOUT,
    CONNECT_TIMEOUT,
    PIECE_RETRIES,
    QUICK_TIMEOUT,
    SMALL_BYTES,
    connect,
    if_sound,
    translated,
)
from flyexecutor.store.listing import Listing
from flyexecutor.store.reader import BLOCK_LIMIT
from flyexecutor.store.records import Records
from flyexecutor.store.scripts import script

RESERVATION_TTL = 15.0  # seconds in which a client must turn it into a machine, or renew it: it may have died
GIVE_UP_WITHIN = 15.0  # seconds after boot_timeout in which whoever started a machine gives it up and says so
LOCK_TTL = 30.0  # seconds for which one client has others wait, at most,
LOCK_PATIENCE = 15.0  # and for which one waits
RUNS_KEPT = 50
RUNS_TTL = 62 * 86400  # seconds: a monthly schedule runs again before that


@dataclass(frozen=True, slots=True)
class LaneLook:
    """What Redis says of a lane to a fleet."""

    reservations: Sequence[str]  # granted to the asker, who must turn each into a machine or release it
    workers: dict[str, str]  # machine -> time of its join, opaque
    starts: frozenset[str]  # reservations and machines on their way
    due: float | None  # seconds until a call that waits for its retry, or its end, is due
    at: int = 0  # ms, by Redis's clock: when that was so


@dataclass(frozen=True, slots=True)
class Sought:
    """What became of a search for a list of machines: one was found, or the asker is to fetch it, or somebody does."""

    moment: int  # ms, by Redis's clock: the list must have begun at it or after
    began: int = 0  # the same for the one that was found, or that the asker is to fetch
    found: bytes | None = None  # as it was published
    fetch_in: float | None = None  # seconds after which the asker may fetch one
    wait: float = 0.0  # seconds in which somebody else fetches one,
    last: bytes = b""  # which will follow on this entry


class LaneStore:
    """The records of one app in one Redis. Safe to use from several threads, and after a fork."""

    def __init__(self, redis_url: str, app: str) -> None:
        self.address = Address(redis_url)
        self._prefix = f"fly:{{{app}}}"  # braces: the hash tag of Redis Cluster
        self._redis = connect(redis_url, ANSWER_TIMEOUT)
        self._slow = connect(redis_url, BULK_TIMEOUT)
        self._bulk = connect(redis_url, BULK_TIMEOUT)
        self._bulk.set_retry(Retry(ExponentialBackoff(cap=1.0, base=0.05), PIECE_RETRIES))
        self._quick = connect(redis_url, QUICK_TIMEOUT)
        self._blocking = connect(redis_url, BLOCK_LIMIT + CONNECT_TIMEOUT)
        self._records = Records(self._redis, self._bulk, self._prefix)
        self.listing = Listing(self._redis, self._prefix, self.address)  # for the eyes of the app's owner

    def __repr__(self) -> str:
        return f"<Store {self._prefix} at {self.address}>"

    def close(self) -> None:
        """Close the idle connections; one that a thread still waits on closes when it is done."""
        for client in (self._redis, self._slow, self._bulk, self._quick):
            client.connection_pool.disconnect(inuse_connections=False)

    # Step 5: the fleet

    @translated
    def look(self, lane: Lane, reservation: str, held: Iterable[str] = ()) -> LaneLook:
        """See a lane, reserve the machines that it misses, and renew the reservations that the asker holds."""
        fixed = (self._prefix, reservation, lane.max_workers, lane.concurrency, int(RESERVATION_TTL * 1000))
        answer = script("reserve")(self._redis, self._lane_keys(lane.name), (*fixed, *held))
        granted, workers, starts, due, at = answer
        flat = texts_of(workers)
        joined = dict(zip(flat[::2], flat[1::2], strict=True))
        return LaneLook(texts_of(granted), joined, frozenset(texts_of(starts)), seconds_of(due), at)

    @translated
    def assign(self, lane: Lane, reservation: str, machine_id: str, *, reserved: bool = False) -> bool:
        """Turn a reservation into a machine that is about to start; False if another client has it.

        reserved: only if Redis has that reservation still. (A machine that was made for it is there in any case.)
        """
        counted_for = int((lane.boot_timeout + GIVE_UP_WITHIN) * 1000)
        args = (self._prefix, lane.name, reservation, machine_id, counted_for, int(reserved))
        return bool(script("assign")(self._redis, self._lane_keys(lane.name)[1:], args))

    @translated
    def has_workers(self, lane: Lane) -> bool:
        """Whether any worker is there."""
        return bool(if_sound(lambda: self._redis.hlen(self._key("workers", lane.name)), 0))

    @translated
    def has_no_calls(self, lane: Lane) -> bool:
        """Whether no call waits or runs there."""
        queued = if_sound(lambda: self._redis.zcard(self._key("queue", lane.name)), 0)
        return not queued and if_sound(lambda: self._redis.hlen(self._key("claims", lane.name)), 0) <= 1

    @translated
    def is_worker(self, lane: str, machine_id: str) -> bool:
        """Whether the worker of this machine is in its lane."""
        return bool(if_sound(lambda: self._redis.hexists(self._key("workers", lane), machine_id), False))

    @translated
    def is_counted_on(self, lane: str, machine_id: str) -> bool:
        """Whether the worker of this machine is in its lane, or somebody waits for it to join."""
        expires = if_sound(lambda: self._redis.zscore(self._key("starts", lane), machine_id), 0) or 0
        return bool(expires > self._seconds_now() * 1000) or self.is_worker(lane, machine_id)

    @translated
    def release(self, lane: Lane, name: str) -> None:
        """Give back a reservation, or a machine that will not come."""
        script("release")(self._redis, (self._key("starts", lane.name),), (self._prefix, lane.name, name))

    @translated
    def pace_create(self, every: float, burst: int) -> float:
        """Take the next moment at which a machine may be created, one each `every` seconds, for all clients together.

        Answers the seconds until then.
        """
        return self._pace("creates", every, burst)

    @translated
    def pace_list(self, every: float, burst: int) -> float:
        """The same for a list of its machines that nobody else shall have."""
        return self._pace("lists", every, burst)

    @translated
    def seek_list(
        self, name: str, asker: str, moment: int, *, fetch: float, every: float, burst: int, pause: float
    ) -> Sought:
        """Look for a list of the app's machines that began at this moment or later (0: now).

        name: whose lists; those of others are none. fetch: seconds that it may take the asker to fetch one.
        pause: seconds in which nobody shall fetch one, since Fly has refused the asker's last.
        """
        keys = (*self._list_keys(name), f"{self._prefix}:lists")
        args = (moment, asker, int(fetch * 1000), int(every * 1000), burst, int(pause * 1000))
        moment, kind, first, second = script("seek")(self._redis, keys, args)
        if kind == b"found":
            return Sought(moment, began=first, found=second)
        if kind == b"fetch":
            return Sought(moment, began=first, fetch_in=second / 1000)
        return Sought(moment, wait=second / 1000, last=first)

    @translated
    def publish_list(self, name: str, asker: str, began: int, sealed: bytes, ttl: int) -> None:
        """Give the others a list, or, if it is empty, the right to fetch one."""
        keys = self._list_keys(name)
        script("publish")(self._client(len(sealed)), keys, (asker, began, sealed, ttl))

    @translated
    def await_list(self, name: str, last: bytes, seconds: float) -> None:
        """Block until somebody has published a list after this entry, or given up; or for so long, or a few seconds."""
        block = max(1, int(min(seconds, ANSWER_TIMEOUT - 1.0) * 1000))
        if_sound(lambda: self._redis.xread({self._list_keys(name)[0]: last}, count=1, block=block), None)

    @translated
    def meter(self, lane: str) -> Stats:
        """What a lane has now, and what it has cost, but for dollars."""
        answer = script("meter")(self._redis, self._lane_keys(lane), (self._prefix,))
        queued, running, workers, starting, billed, useful, calls, starts, sent = map(int, answer)
        return Stats(queued, running, workers, starting, calls, starts, useful / 1000, billed / 1000, sent)

    @translated
    def now(self) -> float:
        """Seconds since the epoch by Redis's clock or ours, whichever is behind: what is so old that it may go is so by
        both.
        """
        return min(time.time(), self._seconds_now())

    @translated
    def lanes_since(self, seconds: float) -> set[str]:
        """The lanes of the app that had a call in the last so many seconds."""
        at = self._seconds_now() - seconds
        found = if_sound(lambda: self._redis.zrangebyscore(f"{self._prefix}:lanes", at * 1000, "+inf"), [])
        return set(texts_of(found))

    def _seconds_now(self) -> float:
        seconds, microseconds = self._redis.time()
        return float(seconds) + float(microseconds) / 1e6

    @translated
    def bury(self, lane: Lane, machine_id: str, joined: str, reason: str, *, oom: bool) -> int:
        """Free the calls of a machine that is gone: queued again, or LOST. Answers how many they were.

        -1: it is not gone, or has been here since.
        """
        args = (self._prefix, machine_id, joined, reason, int(oom))
        return int(script("bury")(self._redis, self._lane_keys(lane.name)[:2], args))

    @translated
    def fail(self, lane: str, failed: Sequence[tuple[str, bytes]]) -> None:
        """End calls (id, sealed error) of a lane that still wait and can't have a machine."""
        script("fail")(self._redis, (), (self._prefix, lane, *(part for pair in failed for part in pair)))

    @translated
    def note_run(self, schedule: str, call_id: str) -> None:
        """Remember a run of a schedule; the last RUNS_KEPT are."""
        key = self._key("runs", schedule)
        script("note_run")(self._redis, (key,), (call_id, RUNS_KEPT, RUNS_TTL))

    @translated
    def note_scheduled(self, machine_name: str, machine_id: str) -> None:
        """Remember the machine of a schedule: to ask Fly for one machine is cheaper than for a list."""
        self._redis.set(self._key("scheduled", machine_name), machine_id, ex=RUNS_TTL)

    @translated
    def scheduled(self, machine_name: str) -> str:
        """The machine of a schedule; it may be gone, or be another. Empty: not known."""
        machine_id = if_sound(lambda: self._redis.get(self._key("scheduled", machine_name)), b"")
        return (machine_id or b"").decode(errors="replace")

    @translated
    def runs(self, schedule: str) -> Sequence[str]:
        """The last runs of a schedule, the newest first: ids of calls."""
        return texts_of(if_sound(lambda: self._redis.lrange(self._key("runs", schedule), 0, RUNS_KEPT - 1), []))

    @translated
    def try_lock(self, name: str, owner: str, seconds: float) -> bool:
        """Whether the asker may do, for so long, what one client does for all."""
        return bool(script("lock")(self._redis, (self._key("lock", name),), (owner, int(seconds * 1000))))

    @contextlib.contextmanager
    def one_at_a_time(self, name: str) -> Iterator[None]:
        """Who asks for the same name waits for the others, for LOCK_PATIENCE seconds: one of them may have died. So it
        spares requests, and nothing may rely on it.
        """
        lock = self._redis.lock(self._key("lock", name), timeout=LOCK_TTL, blocking_timeout=LOCK_PATIENCE)
        held = self._acquire(lock)
        try:
            yield
        finally:
            if held:
                with contextlib.suppress(redis.RedisError):  # it expires
                    lock.release()

    # Within

    @translated
    def _acquire(self, lock: Lock) -> bool:
        return bool(lock.acquire())

    def _client(self, size: int) -> "redis.Redis":
        """For a request of so many bytes."""
        return self._redis if size <= SMALL_BYTES else self._slow

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{name}"

    def _pace(self, what: str, every: float, burst: int) -> float:
        args = (int(every * 1000), burst)
        return float(script("pace")(self._redis, (f"{self._prefix}:{what}",), args)) / 1000

    def _list_keys(self, name: str) -> list[str]:
        return [self._key("machines", name), self._key("lock", f"machines:{name}")]

    def _lane_keys(self, lane: str) -> list[str]:
        return [self._key("queue", lane), self._key("workers", lane), self._key("starts", lane)]


def seconds_of(milliseconds: int) -> float | None:
    return None if milliseconds < 0 else milliseconds / 1000


def texts_of(answer: Sequence[bytes]) -> list[str]:
    return [part.decode(errors="replace") for part in answer]
