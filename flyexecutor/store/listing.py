"""What lies in Redis, for the eyes of the app's owner: calls, lanes, the server itself.

Reads, never changes anything, and is no part of a call's way. Uses the connection of its store; each function but
`ids_that_begin` takes a few round trips, however much there is.
"""

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from flyexecutor import damage
from flyexecutor.errors import PayloadError
from flyexecutor.names import read_name
from flyexecutor.secrecy import Address
from flyexecutor.states import State
from flyexecutor.store.connection import is_damage, translated

CLOCK_TRIPS = 5
KEYS_AT_ONCE = 10_000  # that one request looks at
_LANE = re.compile(rb"[\w.-]{1,100}")
_FIELDS = ("state", "attempt", "machine", "region", "lane", "queued", "started", "progress", "name")


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A call that has not ended. Times by Redis's clock."""

    id: str
    state: State | None  # None: it is damaged, as `damaged` says
    attempt: int  # how many times it was begun
    machine_id: str  # that runs it; empty while it is queued
    region: str
    lane: str
    queued_seconds: float  # from its submission until its attempt began, or until now
    running_seconds: float | None  # of this attempt; None while it is queued
    progress: bytes  # what it last said, unread; empty: nothing
    name: str = ""
    damaged: str = ""  # what of its record is, and how


@dataclass(frozen=True, slots=True)
class LaneRecord:
    """A lane that had a call in the last 30 days."""

    name: str
    idle_seconds: float  # since a call was submitted to it
    queued: int  # calls, those that wait for their retry included
    running: int
    workers: int


@dataclass(frozen=True, slots=True)
class Printed:
    """What a call has printed so far, and its state at that moment."""

    state: State | None  # None: it is damaged
    attempt: int
    text: str  # the last 32 kB
    name: str  # of the call


@dataclass(frozen=True, slots=True)
class Server:
    """The Redis server, as far as it tells."""

    version: str  # empty: it does not say
    name: str  # redis, valkey, ...
    eviction: str  # its policy; empty: it does not say
    latency: float  # seconds of the fastest of a few round trips
    ahead: float  # seconds that its clock is ahead of ours, give or take half the latency


@dataclass(frozen=True, slots=True)
class Overview:
    """What an app has in Redis at one moment."""

    calls: Sequence[CallRecord]  # those that run first, then the oldest first
    lanes: Sequence[LaneRecord]  # the one that was used last first


class Listing:
    """The records of one app, as a list."""

    def __init__(self, client: "redis.Redis", prefix: str, address: Address) -> None:
        self.address = address
        self._redis = client
        self._prefix = prefix

    @translated
    def overview(self, limit: int) -> Overview:
        """The lanes, and up to `limit` calls that have not ended. Three round trips."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.time()
        pipe.zrevrange(f"{self._prefix}:lanes", 0, -1, withscores=True)
        (seconds, microseconds), lanes_used = pipe.execute(raise_on_error=False)
        known = [(name, at) for name, at in _sound(lanes_used, []) if _LANE.fullmatch(name) and math.isfinite(at)]
        now = seconds + microseconds / 1e6
        for name, _ in known:
            pipe.zcard(self._key("queue", name.decode()))
            pipe.hlen(self._key("claims", name.decode()))
            pipe.hlen(self._key("workers", name.decode()))
            pipe.hscan(self._key("claims", name.decode()), count=limit)
            pipe.zrange(self._key("queue", name.decode()), 0, limit - 1)
            # A call that waits for its retry is in no queue, only here: "r ID".
            pipe.zrange(self._key("due", name.decode()), 0, limit - 1)
        answers = iter(pipe.execute(raise_on_error=False))
        lanes = []
        places: list[tuple[int, str]] = []  # in its lane's queue, and the call
        for name, used_at in known:
            queued, running, workers = (_sound(next(answers), 0) for _ in range(3))
            _, claimed = _sound(next(answers), (0, {}))
            running, claimed = max(0, running - 1), filter(None, claimed)  # one has no name (lib_keys.lua)
            waiting, due = _sound(next(answers), ()), _sound(next(answers), ())
            retries = [member[2:] for member in due if member.startswith(b"r ")]
            places += enumerate(member.decode(errors="replace") for member in (*claimed, *waiting, *retries))
            lanes.append(LaneRecord(name.decode(), now - used_at / 1000, queued + len(retries), running, workers))
        # The heads of all lanes first: a long queue hides no call that another lane runs.
        ids = [call_id for _, call_id in sorted(places, key=lambda place: place[0])[:limit]]
        for call_id in ids:
            pipe.hmget(self._key("call", call_id), _FIELDS)
        answers = iter(pipe.execute(raise_on_error=False))
        calls = [call for call_id in ids if (call := _call(call_id, next(answers), now))]
        calls.sort(key=lambda call: (call.state is not State.RUNNING, -call.queued_seconds))
        return Overview(calls, lanes)

    @translated
    def printed(self, call_id: str) -> Printed | None:
        """What a call has printed; None if Redis does not know it. One round trip."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.hmget(self._key("call", call_id), ["state", "attempt", "logs", "name"])
        state, attempt, logs, name = _sound(pipe.execute(raise_on_error=False)[0], (None,) * 4)
        if not state:
            return None
        return Printed(_state(state), _attempt(attempt), (logs or b"").decode(errors="replace"), read_name(name))

    @translated
    def states(self, call_ids: Sequence[str]) -> list[State | None]:
        """The states of calls; None for one that Redis does not know (any more). One round trip."""
        pipe = self._redis.pipeline(transaction=False)
        for call_id in call_ids:
            pipe.hget(self._key("call", call_id), "state")
        return [_state(_sound(state, None)) for state in pipe.execute(raise_on_error=False)]

    @translated
    def ids_that_begin(self, digits: str) -> list[str]:
        """The ids of calls that begin so; anybody may have stored them. Looks at the name of each key in Redis."""
        beginning = self._key("call", digits)
        pattern = re.sub(r"[\\*?[\]]", r"\\\g<0>", beginning) + "*"
        keys = set(self._redis.scan_iter(pattern, count=KEYS_AT_ONCE))
        return sorted(digits + key.decode(errors="replace")[len(beginning) :] for key in keys)

    @translated
    def server(self) -> Server:
        """What the server tells of itself. A few round trips; none of the first counts, since it connects."""
        self._redis.ping()
        trips = [self._clock() for _ in range(CLOCK_TRIPS)]
        latency, ahead = min(trips)
        try:
            info: Mapping[str, Any] = self._redis.info()
        except redis.ResponseError:  # a provider may not allow it
            info = {}
        name = str(info.get("server_name") or "redis")
        version = str(info.get(f"{name}_version") or info.get("redis_version") or "")
        return Server(version, name, str(info.get("maxmemory_policy") or ""), latency, ahead)

    def _clock(self) -> tuple[float, float]:
        """Seconds that a round trip took, and how far Redis's clock was ahead in its middle."""
        before, since = time.time(), time.perf_counter()
        seconds, microseconds = self._redis.time()
        latency = time.perf_counter() - since
        return latency, float(seconds) + float(microseconds) / 1e6 - (before + latency / 2)

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{name}"


def _call(call_id: str, record: Any, now: float) -> CallRecord | None:
    """A call as its record tells; None for one that has ended meanwhile."""
    if isinstance(record, redis.RedisError):
        return CallRecord(call_id, None, 0, "", "", "", 0.0, None, b"", damaged=f"no record: {_sound(record, record)}")
    state, attempt, machine, region, lane, queued, started, progress, name = (field or b"" for field in record)
    if not state:
        return None
    try:
        stands = damage.state(state)
        if stands.final:
            return None
        runs = stands is State.RUNNING
        until = damage.seconds(started) if runs else now
        return CallRecord(
            id=call_id,
            state=stands,
            attempt=damage.whole(attempt, "attempt", damage.MOST_ATTEMPTS),
            machine_id=damage.word(machine, "machine") if runs else "",
            region=damage.word(region, "region") if runs else "",
            lane=damage.word(lane, "lane"),
            queued_seconds=max(0.0, until - damage.seconds(queued)),
            running_seconds=max(0.0, now - until) if runs else None,
            progress=progress if runs else b"",
            name=read_name(name),
        )
    except PayloadError as exc:
        return CallRecord(call_id, None, 0, "", "", "", 0.0, None, b"", read_name(name), str(exc))


def _sound(answer: Any, instead: Any) -> Any:
    """An answer of a pipeline; something else if the key is of another type than it should be. Raises RedisError."""
    if not isinstance(answer, Exception):
        return answer
    if not is_damage(answer):
        raise answer
    return instead


def _state(value: bytes | None) -> State | None:
    try:
        return damage.state(value) if value else None
    except PayloadError:
        return None


def _attempt(value: bytes | None) -> int:
    try:
        return damage.whole(value, "attempt", damage.MOST_ATTEMPTS)
    except PayloadError:
        return 0
