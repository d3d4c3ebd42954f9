"""What a running call may know and say: `current_call()` and `progress()`. Imported by user code, so it is small.

In a runner, `channel` is set and holds the pipe to the worker. A thread, started by the first `progress`, sends the
newest value at most ten times a second, so that a tight loop may report each step; it is a daemon and ends with the
process. Everywhere else nothing happens: a function that reports its progress also runs without a machine.
"""

import json
import os
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from flyexecutor.worker.pipe import NESTED, PROGRESS, Message, pack_message, write_frames

PROGRESS_EVERY = 0.1  # seconds
MOST_NOTE = 1000  # characters: it is kept with the call's outcome, and shown on a line
MOST_BYTES = 16 * 1024  # of a note's thousand characters, escaped, and two numbers


class Stopped(SystemExit):
    """Raised in user code by SIGTERM: the call took too long, or is to be killed."""


@dataclass(frozen=True, slots=True)
class CurrentCall:
    """The call that this process runs."""

    id: str
    attempt: int  # 1 on the first run; higher: it was begun before, and may have had effects
    name: str = ""  # of its function, or as `with_options(name=...)` says; for people: it is not signed


class Channel:
    """The runner's way to tell its worker something, from any thread. A process that its call has forked is silent."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pid = os.getpid()
        self._awaiting = threading.Lock()  # guards the two below, and the order in which their changes are told
        self.current: CurrentCall | None = None
        self.failures = bytearray()  # what the machine's log is to have of the current call
        self._awaited: set[Hashable] = set()  # what the current call waits for
        self._writing = threading.Lock()  # frames must not mix
        self._changed = threading.Condition()  # guards the two below
        self._progress: Message | None = None
        self._sender: threading.Thread | None = None

    @property
    def forked(self) -> bool:
        """Whether this is not the runner, but a process that its call has forked."""
        return os.getpid() != self._pid

    def begin(self, call: CurrentCall | None) -> None:
        """A call begins, or (None) has ended. What an earlier one has left behind does not count for it."""
        with self._awaiting:
            self.current = call
            self._awaited.clear()
            self.failures.clear()

    def waits(self, what: Hashable, waiting: bool) -> None:
        """The current call waits for another call, of whichever client, or for that one no longer.

        Its worker lets others run while it waits for any.
        """
        if self.forked:
            return
        with self._awaiting:
            before = bool(self._awaited)
            (self._awaited.add if waiting else self._awaited.discard)(what)
            if self.current and before != bool(self._awaited):
                self.tell(Message(NESTED, self.current.id, self.current.attempt, number=int(waiting)))

    def tell(self, *messages: Message) -> None:
        """Send at once; blocks while the worker does not read."""
        if self.forked:
            return  # two that write would mix their frames
        with self._writing:
            write_frames(self._fd, [pack_message(message) for message in messages])

    def tell_progress(self, body: bytes) -> None:
        """Send soon; what comes shortly after replaces it."""
        current = self.current
        if current is None or self.forked:
            return
        with self._changed:
            self._progress = Message(PROGRESS, current.id, current.attempt, body=body)
            if self._sender is None:
                self._sender = threading.Thread(target=self._send_progress, name="flyexecutor progress", daemon=True)
                self._sender.start()
            self._changed.notify()

    def flush(self) -> Sequence[Message]:
        """What was not sent yet: the last word before a call's answer."""
        with self._changed:
            last, self._progress = self._progress, None
            return [last] if last else []

    def _send_progress(self) -> None:
        pace = threading.Event()  # never set: it only waits
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._progress)
            for message in self.flush():
                self.tell(message)
            pace.wait(PROGRESS_EVERY)


channel: Channel | None = None  # set by the runner


def current_call() -> CurrentCall | None:
    """Inside a call: its id, attempt and name, so that what it does can be made idempotent. Elsewhere None."""
    return channel.current if channel else None


def progress(done: float, total: float | None = None, note: str = "") -> None:
    """Inside a call: tell how far it is; `future.progress()` and a progress bar show it. Elsewhere nothing happens.

    Cheap enough for a tight loop: the newest value is sent about ten times a second. Of a note 1,000 characters are
    kept. Raises TypeError or ValueError for `done` and `total` that are no numbers.
    """
    if channel:
        body = json.dumps([done, total, str(note)[:MOST_NOTE]]).encode()
        if len(body) > MOST_BYTES:
            raise ValueError(f"progress is {len(body):,} bytes: done and total must be numbers")
        channel.tell_progress(body)
