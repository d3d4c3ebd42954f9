"""Step 7: the runner, a child of the worker: verify, load, run user code, dump. One call at a time.

Woken by a frame on its pipe; ends when that pipe is closed (the worker has gone), or on SIGTERM, which user code sees
as SystemExit, so that its `finally` blocks run. Each call has a token in a second pipe: who reads the token has the
call, so that the worker can take back what waits behind a long one. Killed at any point: the worker sees its end, the
tokens tell which call it had begun, and a file has what faulthandler wrote. What a call prints goes to the worker
through standard output and error, with a mark after each call. What user code raises, of whatever type and wherever it
runs, is the outcome of its call, but for `Stopped`. A process that a call has forked ends where the call does, unheard.
"""

import contextlib
import faulthandler
import io
import json
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from flyexecutor import environment
from flyexecutor.environment import MachineEnvironment
from flyexecutor.errors import InitializerError, PayloadError, PayloadTooLargeError
from flyexecutor.payload import error_text, pickles
from flyexecutor.payload.trust import WARMUP, Trust
from flyexecutor.secrecy import hide
from flyexecutor.states import State
from flyexecutor.terms import UNREAD, CallTerms, answer_to
from flyexecutor.worker import context, failures, terminal
from flyexecutor.worker.chunks import run_coroutine
from flyexecutor.worker.context import Channel, CurrentCall, Stopped
from flyexecutor.worker.pipe import (
    AGAIN,
    FORGET,
    ITEM,
    PART,
    RAISED,
    REFUSED,
    RETURNED,
    SKIPPED,
    WARM,
    WARMED,
    FrameReader,
    Given,
    Message,
    unpack_given,
)

USUAL = pickles.Manner()
TOLD_PLAINLY = (PayloadError, InitializerError)  # of a call that did not begin
OOM_SCORE = Path("/proc/self/oom_score_adj")


class Runner:
    """The program of this process."""

    def __init__(self, trust: Trust, channel: Channel, mark: bytes) -> None:
        self._trust = trust
        self._channel = channel
        self._mark = mark
        self._output = os.dup(1)  # of our own: user code may close the other
        self._initialized: set[bytes] = set()
        self._stopped = False

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """SIGTERM: the call that runs shall end, and this process with it."""
        self._stopped = True
        self._go_if_stopped()

    def _go_if_stopped(self) -> None:
        if self._stopped:
            raise Stopped(128 + signal.SIGTERM)

    def end(self, exc: BaseException | None) -> NoReturn:
        """End this process as the interpreter would, but at once: no thread that user code has left keeps it."""
        code = error_text.exit_code(exc) if isinstance(exc, SystemExit) else int(exc is not None)
        try:
            if not isinstance(exc, SystemExit):
                self._say(error_text.tell(exc))
            self._mend_output()
        finally:
            os._exit(code & 0xFF)  # also if user code has closed all that could be written to

    def work(self, given_fd: int, tokens_fd: int) -> None:
        """Run what comes until the worker closes its end."""
        reader = FrameReader(given_fd)
        while True:
            try:
                frames = reader.read_some()
            except EOFError:
                return
            for frame in frames:
                given = unpack_given(frame)
                if given.kind == FORGET:
                    pickles.parts_here.clear()
                elif given.kind == PART:
                    self._keep_part(given)
                elif given.kind == WARM:
                    self._warm_up(given.sealed)
                elif _take(tokens_fd):
                    self._run(given)
                else:
                    self._channel.tell(Message(SKIPPED, given.id, given.attempt))

    def _keep_part(self, given: Given) -> None:
        try:
            opened = self._trust.open_part(given.id, given.sealed)
        except PayloadError as exc:
            self._say(f"flyexecutor: {exc}\n")  # the calls that need it will fail
        else:
            pickles.parts_here[given.id] = pickles.Dumped(opened.encoding, bytes(opened.body))

    def _warm_up(self, sealed: bytes) -> None:
        try:
            opened = self._trust.open_part(WARMUP, sealed)
            fn = pickles.load_value(opened.encoding, opened.body)
            fn()
        except BaseException as exc:  # noqa: BLE001 - user code; the calls that need what it does will tell
            self._end_if_forked(exc)
            pickles.add_remedy(exc)
            self._say(f"{error_text.tell(exc)}flyexecutor: warmup raised this; calls run all the same\n")
        self._end_if_forked(None)
        self._go_if_stopped()
        self._mend_output()
        self._channel.tell(Message(WARMED, "", 0))

    def _run(self, call: Given) -> None:
        self._channel.begin(CurrentCall(call.id, call.attempt, call.name))
        answer = self._answer(call)
        if answer.kind != RETURNED:
            self._go_if_stopped()  # whatever it made of that: its worker knows why it was stopped
        self._mend_output()
        self._write(self._mark)
        if self._channel.failures:
            self._write(bytes(self._channel.failures) + self._mark)
            answer = answer._replace(number=1)
        # After the marks: who has the answer finds all that was printed before.
        self._channel.tell(*self._channel.flush(), answer)
        self._channel.begin(None)
        self._go_if_stopped()  # it has answered before that, or in spite of it

    def _answer(self, call: Given) -> Message:
        began = time.monotonic()
        terms, manner, result = self._call(call)
        dumped = _dump(result.value, manner) if result.exception is None else result.exception
        kind = RETURNED
        if isinstance(dumped, BaseException):
            kind, exc = REFUSED if terms is UNREAD else RAISED, dumped
            text = error_text.tell(exc)
            retry = manner.retry if exc is result.exception and not isinstance(exc, TOLD_PLAINLY) else None
            if retry and retry.wants(exc, call.raised):
                failures.log(self._channel, exc, text, "; it is tried again")
                return Message(AGAIN, call.id, call.attempt, seconds=retry.wait, longest=retry.longest_wait)
            failures.log(self._channel, exc, text)
            dumped = self._dump_raised(exc, text, manner)
        seconds = time.monotonic() - began
        answer = answer_to(terms, State.SUCCEEDED if kind == RETURNED else State.FAILED)
        sealed = self._trust.seal_outcome(call.id, call.attempt, answer, dumped.body, dumped.encoding)
        return Message(kind, call.id, call.attempt, seconds=seconds, body=sealed)

    def _call(self, call: Given) -> tuple[CallTerms, pickles.Manner, pickles.Result]:
        terms, manner = UNREAD, USUAL
        try:
            opened = self._trust.open_call(call.id, call.sealed)
            terms = opened.terms
            invocation = pickles.load_call(opened.encoding, opened.body)
            manner = invocation.manner or USUAL
            self._initialize(manner.initializer)
            value = invocation.fn(*invocation.args, **invocation.kwargs)
            if manner.streams:
                value = self._stream(call, iter(value), manner)
            elif isinstance(value, Coroutine):
                value = run_coroutine(value)
            result = pickles.Result(value)
        except BaseException as exc:  # noqa: BLE001 - whatever user code raises is its outcome
            # Returned: no frame of ours that its traceback names keeps it, and with it what user code had in its own.
            pickles.add_remedy(exc)
            result = pickles.Result(exception=exc)
        self._end_if_forked(result.exception)
        return terms, manner, result

    def _dump_raised(self, exc: BaseException, text: str, manner: pickles.Manner) -> pickles.Dumped:
        if isinstance(exc, TOLD_PLAINLY):
            return pickles.dump_error(exc, error_text.tell(exc.__cause__))
        if isinstance(exc, SystemExit) and isinstance(exc.code, str):
            self._say(f"{exc.code}\n")  # as the interpreter does
        dumped = pickles.dump_exception(exc, text)
        try:
            pickles.check_size(dumped, f"the exception {type(exc).__qualname__}", manner.max_payload)
        except PayloadTooLargeError as too_large:
            return pickles.dump_error(too_large, text)
        return dumped

    def _end_if_forked(self, raised: BaseException | None) -> None:
        if self._channel.forked:
            self.end(raised)

    def _say(self, text: str) -> None:
        """Print, whatever user code has made of sys.stderr."""
        self._write(text.encode(errors="backslashreplace"))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:  # a signal that user code handles may cut a write short
            view = view[os.write(self._output, view) :]

    def _mend_output(self) -> None:
        """Flush what was printed; make anew what user code has closed, or replaced by what can't be flushed."""
        os.set_blocking(self._output, True)  # it shares this with the other two
        for name, fd in (("stdout", 1), ("stderr", 2)):
            try:
                os.fstat(fd)
                getattr(sys, name).flush()
            except BaseException:  # noqa: BLE001 - user code
                os.dup2(self._output, fd)
                raw: Any = open(fd, "wb", buffering=0, closefd=False)  # noqa: SIM115 - lives as long as the process
                setattr(sys, name, io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True))

    def _stream(self, call: Given, items: Iterator[Any], manner: pickles.Manner) -> int:
        """Send each item as it comes. Answers how many they were."""
        number = 0
        for number, item in enumerate(items, start=1):
            dumped = pickles.dump_part(item)
            pickles.check_size(dumped, "an item", manner.max_payload)
            sealed = self._trust.seal_item(call.id, call.attempt, number - 1, dumped.body, dumped.encoding)
            self._channel.tell(Message(ITEM, call.id, call.attempt, number - 1, body=sealed))
        return number

    def _initialize(self, initializer: bytes | None) -> None:
        if initializer is None or initializer in self._initialized:
            return
        try:
            fn, args = pickle.loads(initializer)  # from inside a payload that was verified
            fn(*args)
        except BaseException as exc:
            pickles.add_remedy(exc)
            raise InitializerError(f"the initializer raised {error_text.summary(exc)}") from exc
        self._end_if_forked(None)
        self._initialized.add(initializer)


def _dump(value: Any, manner: pickles.Manner) -> pickles.Dumped | BaseException:
    """A result, pickled; or why it can't be."""
    try:
        dumped = pickles.dump_value(value)
        pickles.check_size(dumped, "the result", manner.max_payload)
    except BaseException as exc:  # noqa: BLE001 - user code pickles itself, and may be stopped there
        return exc
    return dumped


def _take(tokens_fd: int) -> bool:
    try:
        return bool(os.read(tokens_fd, 1))
    except BlockingIOError:
        return False


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGINT does what it always does; but asyncio does not take it for Python's own handler, and puts none of its own
    there, which up to Python 3.12 it can't take away after an exception whose repr() raises (asyncio.Runner).
    """
    signal.default_int_handler(number, frame)


class _Forking:
    """SIGTERM in a process that a call has forked does what it does elsewhere, from the first moment on. CPython
    forgets in the child what had come for the parent's handler, so that it is held back until it has none.
    """

    def __init__(self) -> None:
        self._blocked = threading.local()  # what the thread that forks had blocked before
        os.register_at_fork(before=self._hold, after_in_parent=self._let_go, after_in_child=self._leave_to_user_code)

    def _hold(self) -> None:
        self._blocked.before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def _let_go(self) -> None:
        # In the parent `Stopped` is raised here if SIGTERM has come meanwhile, and a hook's exceptions go no further:
        # then the call is ended by force, or when it returns.
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked.before)

    def _leave_to_user_code(self) -> None:
        faulthandler.unregister(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        faulthandler.enable(2)  # and writes no faults of the runner's
        self._let_go()


def main(mark: str, given_fd: int, messages_fd: int, tokens_fd: int, faults_fd: int) -> None:
    """Run until the worker closes its end, a call ends this process, or SIGTERM comes."""
    faulthandler.enable(faults_fd)
    # If memory runs out, this process is the one to go, and its worker lives to tell (Linux: the OOM killer's order).
    with contextlib.suppress(OSError):  # macOS has no such order, and a container may keep its own
        OOM_SCORE.write_text("1000")
    environment.hear(hide(json.loads(sys.stdin.buffer.read())))
    terminal.take_away()
    context.channel = Channel(messages_fd)
    runner = Runner(MachineEnvironment.from_env(environment.here).make_trust(), context.channel, mark.encode())
    signal.signal(signal.SIGTERM, runner.stop)
    signal.signal(signal.SIGINT, _interrupt)
    # Before user code sees it, it is written where all threads are: that tells what the call was doing. One signal,
    # since a second could go to another thread and then interrupt nothing (Linux prefers a thread with none pending).
    faulthandler.register(signal.SIGTERM, faults_fd, chain=True)
    _Forking()
    try:
        runner.work(given_fd, tokens_fd)
    except BaseException as exc:  # noqa: BLE001 - Stopped, or a fault of ours
        runner.end(exc)


if __name__ == "__main__":
    main(sys.argv[1], *(int(fd) for fd in sys.argv[2:]))
