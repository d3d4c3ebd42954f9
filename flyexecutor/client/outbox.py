"""Step 3: the outbox sends gathered calls to the store, one bundle at a time.

Owns a thread and the calls that are not stored yet. `put` wakes it, `close` ends it after the last bundle. Killed in
between: Redis has a whole bundle or none of it, and a bundle may be sent twice. Never unpickles, never speaks HTTP.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from flyexecutor.call import Call, Part
from flyexecutor.errors import FlyExecutorError, RedisUnavailableError
from flyexecutor.lane import Lane
from flyexecutor.store import outage
from flyexecutor.store.calls import BUNDLE_BYTES, Granted, Store
from flyexecutor.store.records import UNTAKEN_TTL

BUNDLE_CALLS = 500
HELD_BYTES = 256 * 1024 * 1024  # while Redis is away; beyond it a call fails at once
FIRST_CONTACT = 5.0  # seconds: a server that never answered is a wrong setting rather than an outage
OUTAGE = 60.0  # seconds after which calls that could not be stored fail
LONGEST_PAUSE = 2.0
PART_KNOWN_FOR = UNTAKEN_TTL / 3  # seconds without a call that needs it, after which it may soon expire

log = logging.getLogger("flyexecutor")


class Outbox:
    """What was submitted and is not in Redis yet. Its attributes are many since one lock guards them all: what waits,
    what is on its way, and what `flush` still has to tell.
    """

    def __init__(
        self,
        store: Store,
        *,
        client: str,
        result_ttl: float,
        stored: Callable[[Lane, Granted], None],
        failed: Callable[[Sequence[Call], FlyExecutorError], None],
    ) -> None:
        self._store = store
        self._client = client
        self._result_ttl = result_ttl
        self._stored = stored
        self._failed = failed
        self._changed = threading.Condition()  # guards all that follows
        self._waiting: dict[str, tuple[int, Call, Lane]] = {}  # in order, with a number
        self._sending: dict[str, tuple[int, Call, Lane]] = {}  # all of one lane
        self._held_bytes = 0
        self._number = 0
        self._closed = False
        self._reached = False  # Redis has answered once
        self._down_since: float | None = None
        self._error: RedisUnavailableError | None = None  # why Redis can't be reached now
        self._last_failure: tuple[int, FlyExecutorError] | None = None  # of a call that was given up
        self._reported = 0  # up to this number flush has told of failures
        self._unused: list[Part] = []  # what calls shared that have ended
        self._parts: dict[str, float] = {}  # what calls share and is stored, and when it was needed; the thread's own

    def put(self, call: Call, lane: Lane) -> None:
        """Take a call; returns at once. Raises RedisUnavailableError if Redis is away and too much waits for it."""
        with self._changed:
            if self._error and self._held_bytes + len(call.sealed) > HELD_BYTES:
                raise self._error
            self._number += 1
            self._waiting[call.id] = (self._number, call, lane)
            self._held_bytes += len(call.sealed)
            self._changed.notify_all()

    def take_back(self, call_id: str) -> bool:
        """Remove a call that is not on its way yet. False: too late for this way."""
        with self._changed:
            found = self._waiting.pop(call_id, None)
            if found is None:
                return False
            self._held_bytes -= len(found[1].sealed)
            self._changed.notify_all()
            return True

    def await_sent(self, call_ids: Iterable[str], timeout: float) -> None:
        """Wait until none of these is on its way, neither here nor in Redis; `timeout` seconds at most."""
        ids = list(call_ids)
        with self._changed:
            self._changed.wait_for(lambda: self._sending.keys().isdisjoint(ids), timeout)

    def drop_part(self, part: Part) -> None:
        """Remove, soon, what calls shared that have all ended. Any thread may ask, even a finaliser."""
        with self._changed:
            self._unused.append(part)
            self._changed.notify_all()

    def holds(self, call_id: str) -> bool:
        """Whether the call is not stored yet."""
        with self._changed:
            return call_id in self._waiting or call_id in self._sending

    def flush(self, timeout: float | None) -> None:
        """Return when all that was put so far is stored in Redis.

        Raises RedisUnavailableError (with the reason) if it could not be within `timeout` seconds, or was given up.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            target = self._number
            while not self._gone(target):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise self._error or RedisUnavailableError(
                        f"Redis at {self._store.address} did not take the calls within {timeout} s: "
                        "give flush more time, or check the server"
                    )
                self._changed.wait(left)
            reported, self._reported = self._reported, max(self._reported, target)
            if self._last_failure and self._last_failure[0] > reported:
                raise self._last_failure[1]

    def _gone(self, target: int) -> bool:
        oldest = next(iter(self._sending.values()), None) or next(iter(self._waiting.values()), None)
        return oldest is None or oldest[0] > target

    def close(self, error: FlyExecutorError | None = None) -> None:
        """End the thread once all is sent. error: why nothing is sent any longer: what waits is dropped, and who waits
        for that in `flush` is told.
        """
        with self._changed:
            if error:
                self._last_failure = (self._number, error)
                self._waiting.clear()
                self._sending.clear()
            self._closed = True
            self._changed.notify_all()

    def run(self) -> None:
        """The thread."""
        while (bundle := self._gather()) is not None:
            self._drop_unused()
            if bundle:
                self._send(bundle)

    def _gather(self) -> Sequence[Call] | None:
        """Block until there is something to do; None once closed and empty."""
        with self._changed:
            while not self._waiting and not self._unused and not self._closed:
                self._changed.wait()
            if not self._waiting and not self._unused:
                return None
            size, name, parts = 0, "", set(self._parts)
            for call_id, (number, call, lane) in self._waiting.items():
                # All that is sent before its script is: it must not take so long that the first has expired.
                size += len(call.sealed) + sum(len(part.sealed) for part in call.parts if part.id not in parts)
                parts |= {part.id for part in call.parts}
                full = size > BUNDLE_BYTES or len(self._sending) == BUNDLE_CALLS
                if self._sending and (full or lane.name != name):
                    break
                name = lane.name
                self._sending[call_id] = (number, call, lane)
            for call_id in self._sending:
                del self._waiting[call_id]
            return [call for _, call, _ in self._sending.values()]

    def _send(self, bundle: Sequence[Call]) -> None:
        pause = 0.05
        with self._changed:
            oldest = next(iter(self._sending.values()), None)
        if oldest is None:
            return  # given up meanwhile
        first, _, lane = oldest  # the number names the bundle: no two have the same first call
        while True:
            try:
                with outage.noticed(self._store.address):
                    self._send_parts(bundle)
                    granted = self._store.enqueue(
                        lane,
                        bundle,
                        client=self._client,
                        result_ttl=self._result_ttl,
                        reservation=f"{self._client}.{first}",
                    )
            except RedisUnavailableError as exc:
                self._parts = dict.fromkeys(self._parts, -PART_KNOWN_FOR)  # nobody has looked after them
                if self._gives_up(exc):
                    self._done(bundle, exc)
                    self._failed(bundle, exc)
                    return
                self._pause(pause)
                pause = min(LONGEST_PAUSE, pause * 2)
            except Exception as exc:  # what lies in Redis is damaged, or memory is short: it costs this bundle
                log.exception("%d calls could not be stored", len(bundle))
                error = FlyExecutorError(f"the call could not be stored: {exc!r}")
                self._done(bundle, error)
                self._failed(bundle, error)
                return
            else:
                self._reached, self._down_since = True, None
                self._stored(lane, granted)  # before flush returns: who exits then waits for the fleet too
                self._done(bundle, None)
                return

    def _pause(self, seconds: float) -> None:
        with self._changed:
            closed = self._closed  # closing ends the pause that it falls into, and no later one
            self._changed.wait_for(lambda: self._closed is not closed, seconds)

    def _drop_unused(self) -> None:
        with self._changed:
            unused, self._unused = self._unused, []
        for part in unused:
            if self._parts.pop(part.id, None) is not None:
                try:
                    self._store.drop_part(part)
                except FlyExecutorError as exc:
                    log.info("what calls shared stays in Redis for some minutes: %s", exc)

    def _send_parts(self, bundle: Sequence[Call]) -> None:
        for part in {part.id: part for call in bundle for part in call.parts}.values():
            now = time.monotonic()
            if now - self._parts.get(part.id, -PART_KNOWN_FOR) >= PART_KNOWN_FOR:
                self._store.put_part(part)
            self._parts[part.id] = now

    def _gives_up(self, error: RedisUnavailableError) -> bool:
        now = time.monotonic()
        if self._down_since is None:
            self._down_since = now
        with self._changed:
            self._error = error
            given_up = not self._sending
        patience = OUTAGE if self._reached else FIRST_CONTACT
        return given_up or error.permanent or now - self._down_since > patience

    def _done(self, bundle: Sequence[Call], failure: FlyExecutorError | None) -> None:
        with self._changed:
            if failure and self._sending:
                self._last_failure = (max(number for number, *_ in self._sending.values()), failure)
            self._error = failure if isinstance(failure, RedisUnavailableError) else None
            self._sending.clear()
            self._held_bytes -= sum(len(call.sealed) for call in bundle)
            self._changed.notify_all()
