"""Step 7: the runner, a child of the worker: verify, load, run user code, dump. One call at a time.

Woken by a frame on its pipe; ends when that pipe is closed (the worker has gone), or on SIGTERM, which user code sees
as SystemExit, so that its `finally` blocks run. Each call has a token in a second pipe: who reads the token has the
call, so that the worker can take back what waits behind a long one. Killed at any point: the worker sees its end, the
tokens tell which call it had begun, and a file has what faulthandler wrote. What a call prints goes to the worker
through standard output and error, with a mark after each call.
"""

import faulthandler
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from flyexecutor import payload
from flyexecutor.errors import InitializerError, PayloadError, PayloadTooLargeError
from flyexecutor.trust import KEY_VARIABLE, WARMUP, Trust
from flyexecutor.worker import context
from flyexecutor.worker.chunks import run_coroutine
from flyexecutor.worker.context import Channel, CurrentCall
from flyexecutor.worker.pipe import (
    AGAIN,
    FORGET,
    ITEM,
    PART,
    RAISED,
    RETURNED,
    SKIPPED,
    WARM,
    WARMED,
    FrameReader,
    Given,
    Told,
    unpack_given,
)

USUAL = payload.Manner()


class Stopped(SystemExit):
    """Raised in user code by SIGTERM: the call took too long, or is to be killed."""


class Runner:
    """The program of this process."""

    def __init__(self, trust: Trust, channel: Channel, mark: bytes) -> None:
        self._trust = trust
        self._channel = channel
        self._mark = mark
        self._output = os.dup(1)  # of our own: user code may close the other
        self._initialized: set[bytes] = set()

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
                    payload.parts_here.clear()
                elif given.kind == PART:
                    self._keep_part(given)
                elif given.kind == WARM:
                    self._warm_up(given.sealed)
                elif _take(tokens_fd):
                    self._run(given)
                else:
                    self._channel.tell(Told(SKIPPED, given.id, given.attempt))

    def _keep_part(self, given: Given) -> None:
        try:
            opened = self._trust.open_part(given.id, given.sealed)
        except PayloadError as exc:
            print(f"flyexecutor: {exc}", file=sys.stderr)  # noqa: T201 - the calls that need it will fail
        else:
            payload.parts_here[given.id] = payload.Dumped(opened.encoding, bytes(opened.body))

    def _warm_up(self, sealed: bytes) -> None:
        try:
            opened = self._trust.open_part(WARMUP, sealed)
            fn = payload.load_value(opened.encoding, opened.body)
            fn()
        except Exception:  # noqa: BLE001 - user code; the calls that need what it does will tell
            traceback.print_exc()
            print("flyexecutor: warmup raised this; calls run all the same", file=sys.stderr)  # noqa: T201
        self._channel.tell(Told(WARMED, "", 0))

    def _run(self, call: Given) -> None:
        self._channel.current = CurrentCall(call.id, call.attempt)
        answer = self._answer(call)
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(self._output, self._mark)
        # After the mark: who has the answer finds all that was printed before.
        self._channel.tell(*self._channel.flush(), answer)
        self._channel.current = None

    def _answer(self, call: Given) -> Told:
        """Run one call. SystemExit is not caught: it ends this process, and the worker tells so."""
        began = time.monotonic()
        manner = USUAL
        try:
            opened = self._trust.open_call(call.id, call.sealed)
            invocation = payload.load_call(opened.encoding, opened.body)
            manner = invocation.manner or USUAL
            self._initialize(manner.initializer)
            value = invocation.fn(*invocation.args, **invocation.kwargs)
            if manner.streams:
                value = self._stream(call, iter(value), manner)
            elif isinstance(value, Coroutine):
                value = run_coroutine(value)
        except (PayloadError, InitializerError) as exc:
            kind, dumped = RAISED, payload.dump_error(exc, _cause(exc))
        except (Exception, KeyboardInterrupt) as exc:  # noqa: BLE001 - whatever user code raises is its outcome
            if manner.retry and manner.retry.wants(exc, call.raised):
                traceback.print_exc()
                print(f"flyexecutor: attempt {call.attempt} raised this; it is tried again", file=sys.stderr)  # noqa: T201
                seconds, longest = manner.retry.wait, manner.retry.longest_wait
                return Told(AGAIN, call.id, call.attempt, seconds=seconds, longest=longest)
            kind, dumped = RAISED, payload.dump_exception(exc)
        else:
            kind, dumped = RETURNED, payload.dump_value(value)
        try:
            payload.check_size(dumped, "the result", manner.max_payload)
        except PayloadTooLargeError as exc:
            kind, dumped = RAISED, payload.dump_error(exc)
        seconds = time.monotonic() - began
        sealed = self._trust.seal_outcome(call.id, call.attempt, dumped.body, dumped.encoding)
        return Told(kind, call.id, call.attempt, seconds=seconds, body=sealed)

    def _stream(self, call: Given, items: Iterator[Any], manner: payload.Manner) -> int:
        """Send each item as it comes. Answers how many they were."""
        number = 0
        for number, item in enumerate(items, start=1):
            dumped = payload.dump_part(item)
            payload.check_size(dumped, "an item", manner.max_payload)
            sealed = self._trust.seal_item(call.id, call.attempt, number - 1, dumped.body, dumped.encoding)
            self._channel.tell(Told(ITEM, call.id, call.attempt, number - 1, body=sealed))
        return number

    def _initialize(self, initializer: bytes | None) -> None:
        if initializer is None or initializer in self._initialized:
            return
        try:
            fn, args = pickle.loads(initializer)  # from inside a payload that was verified
            fn(*args)
        except Exception as exc:
            raise InitializerError(f"the initializer raised {type(exc).__qualname__}: {exc}") from exc
        self._initialized.add(initializer)


def _take(tokens_fd: int) -> bool:
    try:
        return bool(os.read(tokens_fd, 1))
    except BlockingIOError:
        return False


def _cause(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc.__cause__)) if exc.__cause__ else ""


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stopped(128 + signal.SIGTERM)


def main(mark: str, given_fd: int, told_fd: int, tokens_fd: int, faults_fd: int) -> None:
    """Run until the worker closes its end, a call ends this process, or SIGTERM comes."""
    faulthandler.enable(faults_fd)
    # If memory runs out, this process is the one to go, and its worker lives to tell (Linux: the OOM killer's order).
    Path("/proc/self/oom_score_adj").write_text("1000")
    signal.signal(signal.SIGTERM, _stop)
    # Before user code sees it, it is written where all threads are: that tells what the call was doing. One signal,
    # since a second could go to another thread and then interrupt nothing (Linux prefers a thread with none pending).
    faulthandler.register(signal.SIGTERM, faults_fd, chain=True)
    context.channel = Channel(told_fd)
    trust = Trust(bytes.fromhex(os.environ[KEY_VARIABLE]), os.environ["FLY_APP_NAME"])
    try:
        Runner(trust, context.channel, mark.encode()).work(given_fd, tokens_fd)
    except SystemExit as exc:
        # At once: a thread that user code has left running must not keep this process, and with it the call's future.
        if isinstance(exc.code, str):
            print(exc.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exc.code if isinstance(exc.code, int) else int(exc.code is not None))


if __name__ == "__main__":
    main(sys.argv[1], *(int(fd) for fd in sys.argv[2:]))
