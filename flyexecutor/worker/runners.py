"""The runner processes of a worker: give a call, take it back, notice a death, replace.

Owns the processes and the worker's ends of their pipes; has no thread: the loop calls it when a pipe is readable or a
child has died. If the worker is killed, the runners read end-of-file and go.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence

from flyexecutor.call import ClaimedCall
from flyexecutor.worker.pipe import (
    PIPE_BYTES,
    SKIPPED,
    Answered,
    FrameReader,
    Given,
    pack_given,
    unpack_answered,
    write_frames,
)


class Runner:
    """One runner process and the calls that it has."""

    def __init__(self) -> None:
        self.given: deque[ClaimedCall] = deque()  # in the order in which it runs them
        self.answered_at = time.monotonic()  # or was given a call while it had none
        self._bytes = 0  # of the calls in the pipe, at most
        self._taken_back = 0  # calls that it will answer as skipped
        given_out, self._given = os.pipe()
        answers, answers_in = os.pipe()
        self._tokens_out, self._tokens = os.pipe()
        # Shared with the child: either of us who reads a token has the call, and neither waits for one.
        os.set_blocking(self._tokens_out, False)
        ends = (given_out, answers_in, self._tokens_out)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flyexecutor.worker.runner", *map(str, ends)],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
        )
        os.close(given_out)
        os.close(answers_in)
        self._reader = FrameReader(answers)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def fileno(self) -> int:
        """The pipe of answers, for `selectors`."""
        return self._reader.fd

    def can_take(self, call: ClaimedCall) -> bool:
        """Whether giving this call would not block: a runner at work reads nothing."""
        if self._taken_back:
            return False  # it must answer those first, or it would take the new call's token for one of them
        return not self.given or self._bytes + len(call.sealed) < PIPE_BYTES // 2

    def give(self, call: ClaimedCall) -> None:
        """Have it run a call, after those that it has."""
        if not self.given:
            self.answered_at, self._bytes = time.monotonic(), 0
        self.given.append(call)
        self._bytes += len(call.sealed)
        # The token goes first: once the runner has read the call it must find it. A runner that has just died is
        # noticed by the loop, and its calls are given to the next.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._tokens, b"t")
            write_frames(self._given, [pack_given(Given(call.id, call.attempt, call.sealed))])

    def answers(self) -> list[Answered]:
        """What it has answered; blocks only if nothing is readable. Raises EOFError when it has closed the pipe."""
        told = [unpack_answered(frame) for frame in self._reader.read_some()]
        if told:
            self.answered_at = time.monotonic()
        ran = []
        for answer in told:
            if answer.kind == SKIPPED:
                self._taken_back -= 1
            else:
                self.given.popleft()
                ran.append(answer)
        return ran

    def take_back(self) -> Sequence[ClaimedCall]:
        """Take back the calls that it has not begun."""
        if len(self.given) < 2:
            return ()
        taken = [self.given.pop() for _ in range(self._read_tokens(len(self.given)))]
        self._taken_back += len(taken)
        return taken[::-1]

    def died(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def bury(self) -> tuple[ClaimedCall | None, Sequence[ClaimedCall]]:
        """After its death: the call that it had begun, if any, and those that it had not."""
        not_begun = [self.given.pop() for _ in range(self._read_tokens(len(self.given)))]
        begun = self.given.popleft() if self.given else None
        self.close()
        return begun, not_begun[::-1]

    def describe_death(self) -> str:
        """`exit code 3`, `signal SIGSEGV`."""
        code = self._process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """End the process, by force if it still runs."""
        self._process.kill()
        self._process.wait()
        for fd in (self._given, self._tokens, self._tokens_out, self._reader.fd):
            os.close(fd)

    def _read_tokens(self, most: int) -> int:
        try:
            return len(os.read(self._tokens_out, most)) if most else 0
        except BlockingIOError:
            return 0
