"""FlyFuture, a client's handle on a call.

Owns nothing but its own state. The watcher resolves it and tells it what the call reports; what needs Redis goes
through the `Control` that the client gives it. Never unpickles.
"""

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import BrokenExecutor, Future
from concurrent.futures._base import CANCELLED
from dataclasses import replace
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeVar

from flyexecutor import damage
from flyexecutor.call import CallInfo, Outcome
from flyexecutor.errors import CallForgottenError, CallKilledError, PayloadError, RedisUnavailableError
from flyexecutor.names import label
from flyexecutor.payload import error_text
from flyexecutor.states import State

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

KILL_PATIENCE = 15.0  # seconds: the worker hears of it, SIGTERM, its grace, SIGKILL, the outcome
TAIL_LINES = 10  # of what a call printed, in the note of an exception that says nothing of the call itself
BLIND = (BrokenExecutor, TimeoutError, CallKilledError)  # such exceptions

log = logging.getLogger("flyexecutor")


class Kill(StrEnum):
    """What came of `future.kill()`."""

    KILLED = "killed"  # it will have no result: it was stopped, or had not begun
    DONE = "already done"  # it had ended by itself
    UNKNOWN = "unknown"  # nobody answered in time, or Redis does not know the call


class Progress(NamedTuple):
    """How far a call is, in its own words."""

    done: float
    total: float | None
    note: str


class Control(Protocol):
    """What a future asks its client for."""

    def take_back(self, call_id: str) -> bool:
        """Cancel, if it is still queued."""

    def info(self, call_id: str) -> CallInfo | None:
        """How it stands; None if Redis does not know it."""

    def kill(self, call_id: str) -> State | None:
        """Have it stopped; answers its state before that."""

    def logs(self, call_id: str) -> bytes:
        """What it has printed."""


class _Condition(threading.Condition):
    """One that takes 0.2 kB instead of 1.4: no queue before somebody waits, no methods of its lock kept."""

    __slots__ = ("_lock", "_waiters")

    def __init__(self) -> None:
        self._lock: Any = threading.RLock()  # Any: what a condition needs of it has no types
        self._waiters: list[Any] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As in threading."""
        return bool(self._lock.acquire(blocking, timeout))

    def release(self) -> None:
        """As in threading."""
        self._lock.release()

    def _is_owned(self) -> bool:
        return bool(self._lock._is_owned())

    def _release_save(self) -> Any:
        return self._lock._release_save()

    def _acquire_restore(self, state: Any) -> None:
        self._lock._acquire_restore(state)


_BLANK = vars(Future())  # what each future has, whatever this version of Python adds


class FlyFuture(Future[T]):
    """A `concurrent.futures.Future` whose call runs on a machine. Made by an executor, never by its user.

    `id` names the call for ever: keep it, and `executor.future(id)` attaches to the call from any process.
    """

    def __init__(
        self, call_id: str, control: Control, *, keep: bool, attached: bool, name: str = "", nonce: bytes = b""
    ) -> None:
        # As Future.__init__ does, but for the condition: of a pending future it takes two thirds of the memory.
        vars(self).update(_BLANK, _condition=_Condition(), _waiters=[], _done_callbacks=[])
        self.id = call_id
        self.name = name  # of its function, or as `with_options(name=...)` says; empty: not known
        self.keep = keep  # False: nobody will ask for the outcome again
        self.attached = attached  # made by executor.future(id), not by submit
        self.nonce = nonce  # of the submit that its outcome must answer; empty: of any
        self.comes_by = 0.0  # until then (monotonic seconds) its call may yet come to Redis; 0: it has been there
        self.unheard = False  # it ended because nothing was heard of its call: asking again may help
        self._control = control
        self._outcome: Outcome | None = None
        self._progress: Progress | None = None
        self._progress_callbacks: list[Callable[[Progress], object]] | None = None

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]} call={label(self.id, self.name)}>"

    def __await__(self) -> Generator[Any, None, T]:
        """`await future`, on an event loop of asyncio, as `asyncio.wrap_future` has it: when the task that awaits is
        cancelled the call is taken back if no worker has claimed it, and else it goes on.
        """
        return asyncio.wrap_future(self).__await__()

    def info(self) -> CallInfo:
        """Where the call stands, where it ran, and its times. One round trip to Redis; none for a call of `map` that
        has ended.

        Raises RedisUnavailableError, and CallForgottenError if Redis does not know the call.
        """
        info = None if self.ended_unsent() or (self._outcome and not self.keep) else self._control.info(self.id)
        if info:
            state = self._outcome.state if self._outcome else info.state  # what was opened, not the word in Redis
            return replace(info, state=state, name=info.name or self.name)
        if self.done():
            return self._last_info()
        called = label(self.id, self.name)
        raise CallForgottenError(f"Redis does not know the call {called} any more: it was emptied, or evicts keys")

    def state(self) -> State:
        """Where the call stands. One round trip to Redis while it has not ended; none afterwards. Raises as `info`."""
        return self._ask().state

    @property
    def machine_id(self) -> str:
        """The machine that runs or ran the call; empty if none has."""
        return self._ask().machine_id

    @property
    def attempt(self) -> int:
        """How many times the call was begun."""
        return self._ask().attempt

    def running(self) -> bool:
        """Whether a worker runs the call now; False as well if Redis does not say."""
        try:
            return not self.done() and self.state() is State.RUNNING
        except (RedisUnavailableError, CallForgottenError, PayloadError) as exc:
            log.warning("can't tell whether a call runs: %s", exc)
            return False

    def cancel(self) -> bool:
        """Take the call back. True only if no worker had claimed it; answers within a fraction of a second."""
        if self.done():
            return self.cancelled()
        if not self._control.take_back(self.id):
            return False
        self.end_cancelled()
        return True

    def kill(self, timeout: float = KILL_PATIENCE) -> Kill:
        """Stop the call, even while it runs: SIGTERM (user code sees SystemExit), and SIGKILL 5 seconds later.

        Waits until its process is gone, `timeout` seconds at most; the future then raises CallKilledError. A call that
        had not begun is cancelled. Raises RedisUnavailableError if nobody could be asked.
        """
        if self.done():
            return Kill.KILLED if self.cancelled() else Kill.DONE
        if self.cancel():
            return Kill.KILLED
        if not self.order_kill() and not self.done():
            return Kill.UNKNOWN
        try:
            self.exception(timeout)
        except TimeoutError:
            return Kill.UNKNOWN
        except BaseException:
            if not self.cancelled():
                raise
            return Kill.KILLED
        return Kill.KILLED if self._ask().state is State.KILLED else Kill.DONE

    def order_kill(self) -> bool:
        """What `kill` does first: have the worker stop the call, and do not wait for that. False if Redis does not know
        the call. One round trip, bounded to a fraction of a second; raises RedisUnavailableError.
        """
        return self._control.kill(self.id) is not None

    def logs(self) -> str:
        """What the call has printed, the last 32 kB; while it runs, as of a second ago.

        One round trip to Redis. Empty once the call's record has expired, and for calls of `map` that went well.
        Raises RedisUnavailableError.
        """
        if self.ended_unsent():
            return ""
        kept = self._outcome.logs if self._outcome else b""
        return (kept or self._control.logs(self.id)).decode(errors="replace")

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """As in concurrent.futures; outside the main thread nothing that `fn` raises, SystemExit included, gets further
        than the log, since other futures wait for the thread that resolves this one.
        """
        super().add_done_callback(functools.partial(_call_back, fn))

    def progress(self) -> Progress | None:
        """What the call last said with `flyexecutor.progress(done, total, note)`; None if nothing. No round trip.

        Kept with its outcome: also for whoever attaches later.
        """
        return self._progress

    def add_progress_callback(self, fn: Callable[[Progress], object]) -> None:
        """Call `fn(progress)` whenever the call tells how far it is; errors in it are logged, as in done callbacks."""
        with self._condition:
            self._progress_callbacks = [*(self._progress_callbacks or ()), fn]

    def _last_info(self) -> CallInfo:
        if self._outcome is None:
            return CallInfo(State.CANCELLED if self.cancelled() else State.FAILED, 0, name=self.name)
        outcome = self._outcome
        return CallInfo(
            outcome.state, outcome.attempt, outcome.machine_id, outcome.region, outcome.times, name=self.name
        )

    def _ask(self) -> CallInfo:
        return self._last_info() if self.done() else self.info()

    # For the watcher and the client

    def ended_unsent(self) -> bool:
        """Whether it ended without a machine's help: it was never stored, or was taken back."""
        return self.done() and self._outcome is None

    def end(self, outcome: Outcome, value: Any, exception: BaseException | None) -> None:
        """Resolve the future with what its call came to."""
        self._outcome = outcome
        if exception is None:
            self.set_result(value)
        else:
            self.set_exception(self.note_origin(exception))

    def note_origin(self, exc: E) -> E:
        """Note on an exception where it comes from."""
        outcome = self._outcome
        if outcome and outcome.machine_id:
            error_text.add_note(
                exc,
                f"call {label(outcome.id, self.name)}, attempt {outcome.attempt}, on machine {outcome.machine_id}"
                f"{f' in {outcome.region}' if outcome.region else ''}",
            )
        if outcome and outcome.logs and isinstance(exc, BLIND):
            tail = outcome.logs.decode(errors="replace").splitlines()[-TAIL_LINES:]
            error_text.add_note(exc, "the last that it printed (more of it: future.logs()):\n  " + "\n  ".join(tail))
        return exc

    def end_cancelled(self) -> None:
        """Resolve the future as cancelled; any number of threads may."""
        super().cancel()
        with self._condition:
            # Both the caller of cancel() and the watcher come here; the second step is allowed once.
            if self._state == CANCELLED:
                self.set_running_or_notify_cancel()

    def tell_progress(self, body: bytes) -> None:
        """The call has said how far it is. Raises PayloadError if these are no two numbers and a note."""
        self._progress = progress = Progress(*damage.progress(body))
        for fn in self._progress_callbacks or ():
            try:
                fn(progress)
            except BaseException:  # SystemExit, say: the watcher would take it for damage, and fail this future
                log.exception("a progress callback of call %s raised", label(self.id, self.name))


def _call_back(fn: Callable[[Future[T]], object], future: Future[T]) -> None:
    try:
        fn(future)
    except BaseException as exc:
        if isinstance(exc, Exception) or threading.current_thread() is threading.main_thread():
            raise  # Future itself logs an Exception
        log.exception("a done callback of %r raised", future)
