"""The runner processes of a worker: give a call, take it back, stop it, notice a death, replace.

Owns the processes and the worker's ends of their pipes; has no thread: the loop calls it when a pipe is readable or a
child has died. If the worker is killed, the runners read end-of-file and go.
"""

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from flyexecutor.call import ClaimedCall
from flyexecutor.environment import for_calls, for_user_code
from flyexecutor.worker.output import Output
from flyexecutor.worker.pipe import (
    AGAIN,
    CALL,
    FORGET,
    NESTED,
    PART,
    PIPE_BYTES,
    RAISED,
    REFUSED,
    RETURNED,
    SKIPPED,
    WARM,
    WARMED,
    FrameReader,
    Given,
    Message,
    pack_given,
    unpack_message,
    write_frames,
)

GRACE = 5.0  # seconds between SIGTERM and SIGKILL, for the `finally` blocks of a call that is stopped
STOPPED = 128 + signal.SIGTERM  # the exit code of a runner that ended on SIGTERM
DYING = 1.0  # seconds between the end of its pipe and that of a process, at most
FAULT_BYTES = 8 * 1024
ANSWERS = frozenset({RETURNED, RAISED, AGAIN, REFUSED})
TIMED_OUT, KILLED = "timeout", "kill"  # why a call is stopped

log = logging.getLogger("flyexecutor.worker")


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended in a runner, and the end of what it printed."""

    call: ClaimedCall
    message: Message
    logs: bytes


@dataclass(frozen=True, slots=True)
class Death:
    """How a runner ended: `exit code 3`, `signal SIGSEGV`."""

    code: int  # negative: the signal
    faults: str  # what faulthandler wrote
    logs: bytes  # the end of what its last call printed
    cut_off: bool  # we ended it, since it could not answer any more
    stopping: str | None = None  # why we have stopped its call, if we have

    def __str__(self) -> str:
        if self.code == STOPPED:
            return "signal SIGTERM"
        if self.cut_off:
            return "signal SIGKILL, since it had closed the pipe to its worker, or written into it"
        return f"signal {_name_of(-self.code)}" if self.code < 0 else f"exit code {self.code}"


def _open_pipe(opened: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        opened.callback(os.close, fd)
    return ends


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal of Linux
        return str(number)


class RunnerProcess:
    """One runner process and the calls that it has.

    More attributes than a class should have: most are ends of its pipes and what is in those, and change together.
    """

    def __init__(self) -> None:
        """Start it. Raises OSError if no process, or no pipe to it, can be had."""
        self.given: deque[ClaimedCall] = deque()  # in the order in which it runs them
        self.answered_at = time.monotonic()  # or was given a call while it had none: since then the first one runs
        self.answered = False  # it has, once
        self.nested = 0  # calls that its call has submitted, and that have not ended
        self.warming = False  # it runs `warmup`
        self.stopping: str | None = None  # why its call is being stopped
        self._kill_at = 0.0  # when to use force, if it is being stopped
        self._cut_off = False  # what it tells can't be heard any more
        self._bytes = 0  # of the calls in the pipe, at most
        self._taken_back = 0  # calls that it will answer as skipped
        self._parts: set[str] = set()  # what its calls share and it has
        with contextlib.ExitStack() as opened:
            self.output = Output()
            opened.callback(self.output.close)
            opened.callback(os.close, self.output.write_fd)
            given_out, self._given = _open_pipe(opened)
            messages, messages_in = _open_pipe(opened)
            self._tokens_out, self._tokens = _open_pipe(opened)
            # Shared with the child: either of us who reads a token has the call, and neither waits for one.
            os.set_blocking(self._tokens_out, False)
            self._faults = opened.enter_context(tempfile.TemporaryFile())
            ends = (given_out, messages_in, self._tokens_out, self._faults.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-m", "flyexecutor.worker.runner", self.output.mark, *map(str, ends)],
                pass_fds=ends,
                env=for_user_code(os.environ),
                stdin=subprocess.PIPE,
                stdout=self.output.write_fd,
                stderr=self.output.write_fd,
            )
            opened.pop_all()  # all of it lives as long as the process
        for fd in (given_out, messages_in, self.output.write_fd):
            os.close(fd)
        self._give_settings()
        self._reader = FrameReader(messages)

    def _give_settings(self) -> None:
        stdin = self._process.stdin
        assert stdin
        with contextlib.suppress(BrokenPipeError), stdin:  # one that has just died is noticed by the loop
            stdin.write(json.dumps(for_calls(os.environ)).encode())

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def fileno(self) -> int:
        """The pipe of what it tells, for `poll`."""
        return self._reader.fd

    @property
    def takes_calls(self) -> bool:
        """Whether it may be given calls at all."""
        return not (self.nested or self.stopping or self.warming)

    def can_take(self, call: ClaimedCall) -> bool:
        """Whether giving this call would not block: a runner at work reads nothing."""
        if self._taken_back:
            return False  # it must answer those first, or it would take the new call's token for one of them
        if not self.takes_calls:
            return False
        size = len(call.sealed) + sum(len(part.sealed) for part in call.parts if part.id not in self._parts)
        return not self.given or self._bytes + size < PIPE_BYTES // 2

    def give(self, call: ClaimedCall) -> None:
        """Have it run a call, after those that it has."""
        if not self.given:
            self.answered_at, self._bytes = time.monotonic(), 0
        self.given.append(call)
        frames = [
            *self._give_parts(call),
            pack_given(Given(CALL, call.id, call.attempt, call.raised, call.sealed, call.name)),
        ]
        self._bytes += sum(len(frame) for frame in frames)
        # The token goes first: once the runner has read the call it must find it. A runner that has just died is
        # noticed by the loop, and its calls are given to the next.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._tokens, b"t")
            write_frames(self._given, frames)

    def _give_parts(self, call: ClaimedCall) -> list[bytes]:
        """What the call shares with others and the runner does not have; it keeps what the last call named."""
        frames = []
        named = {part.id for part in call.parts}
        if named and self._parts - named:
            frames.append(pack_given(Given(FORGET)))
            self._parts.clear()
        frames += [
            pack_given(Given(PART, part.id, sealed=part.sealed)) for part in call.parts if part.id not in self._parts
        ]
        self._parts |= {part.id for part in call.parts if part.sealed}  # an empty one has expired, and may come back
        return frames

    def warm_up(self, sealed: bytes) -> None:
        """Have it run `warmup`; it is given no call meanwhile."""
        self.warming = True
        with contextlib.suppress(BrokenPipeError):
            write_frames(self._given, [pack_given(Given(WARM, sealed=sealed))])

    @property
    def spoiled(self) -> bool:
        """Whether user code has written into its pipe: nothing that comes after that can be understood."""
        return self._reader.spoiled

    def hear(self) -> list[Answer | Message]:
        """What it tells; blocks only if nothing is readable. Raises EOFError if the pipe is closed or spoiled."""
        news: list[Answer | Message] = []
        for message in map(unpack_message, self._reader.read_some()):
            if message.kind == SKIPPED:
                self._taken_back -= 1
            elif message.kind == WARMED:
                self.warming = False
            elif message.kind == NESTED:
                if self._runs(message):  # else it is what a thread does that a call has left behind
                    self.nested = message.number
            elif message.kind in ANSWERS and not self._runs(message):
                log.error("a runner answers the call %r, which it does not run: passed over", message.call_id)
            elif message.kind in ANSWERS:
                self.answered, self.answered_at, self.nested = True, time.monotonic(), 0
                news.append(Answer(self.given.popleft(), message, self.output.take()))
                if message.number:
                    self.output.take()  # is for the machine's log, and in it
            else:
                news.append(message)
        return news

    def hear_rest(self) -> list[Answer | Message]:
        """After its death: what it had said before that."""
        news: list[Answer | Message] = []
        poll = select.poll()
        poll.register(self, select.POLLIN)
        with contextlib.suppress(EOFError):
            while poll.poll(0):
                news += self.hear()
        return news

    def _runs(self, message: Message) -> bool:
        return bool(self.given) and (self.given[0].id, self.given[0].attempt) == (message.call_id, message.attempt)

    def take_back(self) -> Sequence[ClaimedCall]:
        """Take back the calls that it has not begun."""
        if len(self.given) < 2:
            return ()
        taken = [self.given.pop() for _ in range(self._read_tokens(len(self.given)))]
        self._taken_back += len(taken)
        return taken[::-1]

    def stop(self, reason: str) -> None:
        """Stop the call that it runs, the only one that it has: SIGTERM, and SIGKILL after GRACE."""
        self.stopping = reason
        self._kill_at = time.monotonic() + GRACE
        self._process.send_signal(signal.SIGTERM)

    @property
    def patience(self) -> float | None:
        """When to `force` it (monotonic seconds), if it is being stopped."""
        return self._kill_at if self.stopping else None

    def force(self) -> None:
        """SIGKILL, if the grace is over."""
        if self.stopping and time.monotonic() >= self._kill_at:
            self._process.kill()

    def end_if_cut_off(self) -> None:
        """After EOFError: it dies, most likely; but if user code has closed the pipe, no answer would ever come."""
        try:
            self._process.wait(DYING)
        except subprocess.TimeoutExpired:
            self._cut_off = True
            self._process.kill()
            self._process.wait()

    def died(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def bury(self) -> tuple[ClaimedCall | None, Sequence[ClaimedCall]]:
        """After its death: the call that it had begun, if any, and those that it had not."""
        not_begun = [self.given.pop() for _ in range(self._read_tokens(len(self.given)))]
        begun = self.given.popleft() if self.given else None
        self.close()
        return begun, not_begun[::-1]

    def death(self) -> Death:
        """How it died; before `bury`."""
        code = self._process.wait()
        self._faults.seek(0)
        faults = self._faults.read(FAULT_BYTES).decode(errors="replace")
        return Death(code, faults, self.output.rest(), self._cut_off, self.stopping)

    def close(self) -> None:
        """End the process, by force if it still runs."""
        self._process.kill()
        self._process.wait()
        self.output.close()
        self._faults.close()
        for fd in (self._given, self._tokens, self._tokens_out, self._reader.fd):
            os.close(fd)

    def _read_tokens(self, most: int) -> int:
        try:
            return len(os.read(self._tokens_out, most)) if most else 0
        except BlockingIOError:
            return 0
