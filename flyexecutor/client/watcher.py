"""Step 9: the watcher reads outcomes from the store, verifies and unpickles them, and resolves futures.

Owns a thread, a connection and the pending futures. `expect` wakes it; with no future pending it is parked and sends
nothing. `close` ends it: at once when parked, else by closing its connection. Killed: outcomes stay in Redis for
`result_ttl`, and another process attaches by id. Callbacks of futures run in its thread, as in ProcessPoolExecutor.
Whatever unpickling or a callback raises, SystemExit included, ends at most the future that it belongs to.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from flyexecutor.call import Outcome, Report
from flyexecutor.client.future import FlyFuture
from flyexecutor.damage import tell_once, word
from flyexecutor.errors import (
    CallForgottenError,
    CallKilledError,
    ExpiredCallError,
    FlyExecutorError,
    MachineLostError,
    OutOfMemoryError,
    PayloadError,
    RedisUnavailableError,
)
from flyexecutor.names import label, visible
from flyexecutor.payload import error_text, pickles
from flyexecutor.payload.trust import Trust
from flyexecutor.states import State
from flyexecutor.store import outage
from flyexecutor.store.calls import Store
from flyexecutor.store.records import INLINE_BYTES
from flyexecutor.terms import CLOCKS_DIFFER, UNREAD, OutcomeTerms

READ_FOR = 15.0  # seconds that one read waits, and after which the watcher asks how its calls stand,
AWAITED_EVERY = 1.0  # and while one may yet come to Redis
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0  # seconds
CHECK_AT_ONCE = 1000
MOST_REASON = 1000  # bytes of why a call was lost or killed
DAMAGED = b"damaged: "  # how the reason of a call begins whose record was (lua/lib_settle.lua)

log = logging.getLogger("flyexecutor")


class Watcher:
    """The futures of one client that have not ended. Its attributes are many: whom it tells, what is pending, and how
    far it has read, all of one thread and one lock.
    """

    def __init__(
        self,
        store: Store,
        trust: Trust,
        *,
        client: str,
        result_ttl: float,
        unsent: Callable[[str], bool],
        moved: Callable[[str], None],
        same: Callable[[str, str], None],
        waiting: Callable[[str, bool], None],
    ) -> None:
        self._store = store
        self._trust = trust
        self._client = client
        self._result_ttl = result_ttl
        self._unsent = unsent
        self._moved = moved  # a call went to another lane, or has come to one
        self._same = same  # a call is there under another id
        self._waiting = waiting  # a call is pending, or no longer
        self._streams: dict[str, Callable[[int, int, bytes], None]] = {}  # who takes the items of a call
        self._reader = store.outcomes(client)
        self._check_at = 0.0  # when to ask how the calls stand (monotonic),
        self._heard_at = 0.0  # when a read last came back, and
        self._away = 0.0  # the longest time between two reads since the last check,
        self._pause = FIRST_PAUSE  # before Redis is tried again; all four the thread's own
        self._changed = threading.Condition()  # guards what follows
        self._pending: dict[str, FlyFuture[object]] = {}
        self._busy_since = 0.0
        self._submitted = 0  # of the pending, those that are not attached
        self._closed = False
        self._drained: Callable[[], None] | None = None

    def expect(self, future: FlyFuture[object]) -> None:
        """Resolve this future when its outcome comes. To be called before the call is sent."""
        self._waiting(future.id, True)  # before it can be dropped
        with self._changed:
            if not self._pending:
                self._busy_since = time.monotonic()
            self._pending[future.id] = future
            self._submitted += not future.attached
            self._changed.notify_all()

    def expect_items(self, call_id: str, take: Callable[[int, int, bytes], None]) -> None:
        """Give the items that this call yields to `take(attempt, number, sealed)`, in this thread, until it ends."""
        with self._changed:
            self._streams[call_id] = take

    def pending(self) -> list[FlyFuture[object]]:
        """The futures that have not ended."""
        with self._changed:
            return list(self._pending.values())

    @property
    def busy_since(self) -> float | None:
        """Since when there was always a future that had not ended (monotonic); None: there is none."""
        with self._changed:
            return self._busy_since if self._pending else None

    def when_drained(self, then: Callable[[], None]) -> None:
        """End the thread as soon as no call that was submitted here is pending; it then calls `then`."""
        with self._changed:
            self._drained = then
            self._changed.notify_all()

    def drop(self, call_id: str) -> FlyFuture[object] | None:
        """Expect this call no longer; answers its future to whoever is the first to ask."""
        with self._changed:
            future = self._pending.pop(call_id, None)
            self._streams.pop(call_id, None)
            if future:
                self._submitted -= not future.attached
        if future:
            self._waiting(call_id, False)
        return future

    def rename(self, call_id: str, other: str) -> FlyFuture[object] | None:
        """A call is there under another id: expect that from now on. Answers its future; None if that one is expected
        already, by another: this one is looked up when that has ended.
        """
        with self._changed:
            if other in self._pending or call_id not in self._pending:
                return None
            self._waiting(other, True)
            future = self._pending[other] = self._pending.pop(call_id)
            future.id = other
        self._waiting(call_id, False)
        return future

    def fail(self, call_ids: Iterable[str], error: FlyExecutorError) -> None:
        """End futures whose calls will not end."""
        for call_id in call_ids:
            if future := self.drop(call_id):
                future.unheard = True
                future.set_exception(error)

    def cancelled(self, call_id: str) -> None:
        """A call was taken back."""
        if future := self.drop(call_id):
            future.end_cancelled()

    def close(self, error: FlyExecutorError | None = None) -> None:
        """End the thread; what is still pending ends with this error, or with one that says so."""
        if error:  # first: who finds it closed tells something else
            self.fail([future.id for future in self.pending()], error)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._reader.close()
        self.fail_if_closed()

    def fail_if_closed(self) -> None:
        """Nobody would end what is pending then."""
        if self._closed:
            error = "the executor was shut down before this call ended: attach to it again with future(id)"
            self.fail([future.id for future in self.pending()], FlyExecutorError(error))

    def run(self) -> None:
        """The thread."""
        self._begin()
        while self._park():
            try:
                with outage.noticed(self._store.address):
                    if time.monotonic() >= self._check_at:
                        self._check()
                    self._read(self._check_at - time.monotonic())
                self._pause = FIRST_PAUSE
            except Exception as exc:  # noqa: BLE001 - damage in Redis, or too little memory for it: what comes after is heard
                if not isinstance(exc, RedisUnavailableError):
                    tell_once("what the watcher has read", repr(exc))
                self._check_at = 0.0  # as soon as it is there again
                self._wait_out()
                self._pause = min(LONGEST_PAUSE, self._pause * 2)
        if self._drained:
            self._drained()

    def _park(self) -> bool:
        """Block while nothing is pending; False once closed or drained."""
        with self._changed:
            while not self._pending and not self._closed and not self._drained:
                self._changed.wait()
                self._begin()
            return not self._closed and not (self._drained and not self._submitted)

    def _begin(self) -> None:
        self._heard_at = time.monotonic()
        self._plan_check()

    def _plan_check(self) -> None:
        awaited = any(future.comes_by for future in list(self._pending.values()))
        self._check_at = time.monotonic() + (AWAITED_EVERY if awaited else READ_FOR)

    def _wait_out(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, self._pause)

    def _read(self, block: float) -> None:
        """Wait up to `block` seconds for news."""
        self._away = max(self._away, time.monotonic() - self._heard_at)
        try:
            for news in self._reader.read(max(0.0, block)):
                self._pause = FIRST_PAUSE  # a link that breaks often brings something each time
                try:
                    self._hear(news)
                except BaseException:  # whatever it is, the other futures wait for this thread
                    log.exception("what call %s has told could not be passed on", self._label(news.id))
        finally:
            self._heard_at = max(self._heard_at, self._reader.answered_at)

    def _check(self) -> None:
        """Ask how the calls stand: one may have ended and nobody told us, or Redis may have been emptied."""
        sent = [future for future in self.pending() if not self._unsent(future.id)]
        ended: list[str] = []  # or not known before
        for at in range(0, len(sent), CHECK_AT_ONCE):
            some = sent[at : at + CHECK_AT_ONCE]
            stand = zip(some, self._store.standing([future.id for future in some]), strict=True)
            ended += (future.id for future, is_open in stand if not is_open or future.comes_by)
        # A call of map() leaves no record, only an outcome in our stream: all that had ended when we asked is there.
        unread = bool(ended)
        while unread:
            self._read(0)
            unread = not self._reader.at_end
        for call_id in ended:
            if call_id in self._pending:
                try:
                    self._look_up(call_id)
                except RedisUnavailableError:
                    raise
                except PayloadError as exc:
                    self.fail([call_id], PayloadError(f"the record of call {call_id} is {exc}"))
                except BaseException as exc:
                    log.exception("the record of call %s can't be read", self._label(call_id))
                    self.fail([call_id], FlyExecutorError(f"the record of call {call_id} can't be read: {exc!r}"))
        self._away = 0.0
        self._plan_check()

    def _look_up(self, call_id: str) -> None:
        """End the future of a call that has ended, or is nowhere."""
        found = self._store.attach(call_id, self._client)
        if found is None and (other := self._follow(call_id, self._store.pointer(call_id))):
            call_id, found = other, self._store.attach(other, self._client)
        future = self._pending.get(call_id)
        if future is None:
            return
        if found:
            is_new, future.comes_by = bool(future.comes_by), 0.0
            future.name = future.name or found.info.name
            if found.progress:
                self.progress(call_id, found.progress)
            if found.outcome:
                self.resolve(found.outcome)
            elif is_new:
                self._moved(found.lane)
        elif future.comes_by:
            if time.monotonic() > future.comes_by:
                self.fail([call_id], _expired(call_id, "or it was never stored"))
        elif self._away > self._result_ttl:
            self.fail([call_id], _expired(call_id, f"while nobody here could ask for it, for {self._away:.0f} s"))
        else:
            self._reader.rewind()  # the clock of whoever is there now may be behind: older ids are new
            self.fail(
                [call_id],
                CallForgottenError(
                    f"Redis at {self._store.address} does not know the call any more: it was emptied, or it evicts "
                    "keys (turn eviction off); the call may have run"
                ),
            )

    def _follow(self, call_id: str, pointer: str) -> str | None:
        other = self._trust.follow(call_id, pointer)
        if other:
            self._same(call_id, other)
        return other

    def _hear(self, news: Outcome | Report) -> None:
        if isinstance(news, Outcome):
            self.resolve(news)
        elif news.kind == Report.PROGRESS:
            self.progress(news.id, news.body)
        elif news.kind == Report.MOVED:
            self._moved(word(news.body, "lane"))
        elif news.kind == Report.SAME:
            self._follow(news.id, news.body.decode(errors="replace"))
        elif news.kind == Report.ITEM and (take := self._streams.get(news.id)):
            take(news.attempt, news.number, news.body)
            if len(news.body) > INLINE_BYTES:
                self._drop(functools.partial(self._store.drop_item, news))

    def progress(self, call_id: str, body: bytes) -> None:
        """A call has said how far it is."""
        future = self._pending.get(call_id)
        if future:
            try:
                future.tell_progress(body)
            except PayloadError as exc:
                tell_once("what a call has told of its progress", exc)

    def _label(self, call_id: str) -> str:
        future = self._pending.get(call_id)
        return label(call_id, future.name) if future else call_id

    def resolve(self, outcome: Outcome) -> None:
        """End the future of this outcome, if it is (still) expected."""
        future = self.drop(outcome.id)
        if future is None:
            return
        if outcome.state is State.CANCELLED:
            future.end_cancelled()
        else:
            try:
                state, result = self._open(outcome, future.nonce)
                said = outcome if outcome.state is state else replace(outcome, state=state)
                future.end(said, result.value, result.exception)
            except BaseException as exc:
                if future.done():
                    raise
                future.set_exception(exc)  # an exception that refuses our note, say
        if not future.keep:
            self._reader.remove_soon = True
        if not future.keep and len(outcome.sealed) > INLINE_BYTES:
            self._drop(functools.partial(self._store.drop_outcome, outcome))

    def _open(self, outcome: Outcome, nonce: bytes) -> tuple[State, pickles.Result]:
        """How a call has ended. A word of Redis may end it with an error, but no result comes without a seal."""
        state = State.FAILED
        if error := _plainly_told(outcome):
            return state if isinstance(error, PayloadError) else outcome.state, pickles.Result(exception=error)
        if not outcome.sealed:
            return state, pickles.Result(exception=_expired(outcome.id, "before it could be fetched"))
        try:
            opened = self._trust.open_outcome(outcome.id, outcome.attempt, outcome.sealed)
            _refuse_replayed(outcome.id, opened.terms, nonce)
            state = opened.terms.state
            return state, pickles.load_outcome(opened.encoding, opened.body)
        except FlyExecutorError as exc:
            log.error("%s", exc)
            return state, pickles.Result(exception=exc)
        except BaseException as exc:  # noqa: BLE001 - user code unpickles itself and may raise anything
            error_text.add_note(exc, f"flyexecutor could not unpickle the outcome of call {outcome.id}")
            return state, pickles.Result(exception=exc)

    @staticmethod
    def _drop(drop: Callable[[], None]) -> None:
        try:
            drop()
        except FlyExecutorError as exc:
            log.info("what was delivered stays in Redis until it expires: %s", exc)


def _refuse_replayed(call_id: str, terms: OutcomeTerms, nonce: bytes) -> None:
    """Raises PayloadError for an outcome of another submit than ours, ExpiredCallError for one that should be gone."""
    if not nonce:  # whose submit it answers is not known; one that is known needs no clock
        if time.time() > terms.kept_until + CLOCKS_DIFFER:
            raise _expired(call_id, "and somebody has put it back")
    elif terms.nonce != nonce and (terms.nonce != UNREAD.nonce or terms.state is State.SUCCEEDED):
        raise PayloadError(
            f"the outcome payload of call {call_id} answers another submit: it was replayed, and was not unpickled"
        )


def _expired(call_id: str, when: str) -> ExpiredCallError:
    return ExpiredCallError(f"the outcome of the call {call_id} has expired (result_ttl) {when}")


def _plainly_told(outcome: Outcome) -> FlyExecutorError | None:
    """What needs no seal, since anybody who can write to Redis can end a call so; None for another outcome."""
    if outcome.sealed.startswith(DAMAGED):  # a script found that; no payload of ours begins so
        return PayloadError(f"the record of call {outcome.id} is {_reason(outcome)}")
    if outcome.state is State.LOST:
        return _lost(outcome)
    if outcome.state is State.KILLED:
        asked = "somebody asked for that (future.kill(), its stream's close(), or flyexecutor kill)"
        return CallKilledError(f"the call {outcome.id} was {_reason(outcome)}: {asked}")
    return None


def _reason(outcome: Outcome) -> str:
    return visible(outcome.sealed[:MOST_REASON].decode(errors="replace"), lines=False)


def _lost(outcome: Outcome) -> MachineLostError:
    reason = _reason(outcome)
    if reason.startswith("oom: "):
        return OutOfMemoryError(
            f"the call ran out of memory on machine {outcome.machine_id}: {reason[5:]}; give it a larger guest, or let "
            'it have one by itself with retries=Retry(on_oom="bigger")'
        )
    return MachineLostError(
        f"the machine {outcome.machine_id} that ran the call was lost: {reason}; no attempt is left (it had "
        f"{outcome.attempt})"
    )
