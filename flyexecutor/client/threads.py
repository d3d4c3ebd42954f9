"""The threads of one client: each started once there is something to do, and counted until the last has ended.

Owns no loop: what runs in them is brought by the parts of the client. One that dies, which none should, is reported.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator


class Threads:
    """Those of one client, in one process."""

    def __init__(self, *, died: Callable[[str, BaseException], None], all_ended: Callable[[], None]) -> None:
        """died: gets the name of a thread that was ended by an exception, and that, in this thread. all_ended: called
        by the last that ends after `ending`.
        """
        self._died = died
        self._all_ended = all_ended
        self._waiting: list[tuple[Callable[[], None], str]] = []  # what has no thread yet
        # Guards what is above and below; again by a finaliser that runs inside. No thread is started while it is held:
        # under gevent another greenlet would run then, and a lock that was made before gevent patched the module stops
        # them all.
        self._lock = threading.RLock()
        self._running = 0
        self._ending = False

    def add(self, run: Callable[[], None], name: str) -> None:
        """What `start` is to start."""
        with self._lock:
            self._waiting.append((run, name))

    def start(self) -> None:
        """Start what was added. Raises what Python raises if it has no room for a thread: the next time may go well."""
        while self._waiting:
            with self._lock:
                if not self._waiting:
                    return
                run, name = self._waiting.pop(0)
            try:
                self._start(run, name)
            except BaseException:
                self._waiting.insert(0, (run, name))
                raise

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """While all of them are told to end: none of them is the last before that is done."""
        with self._lock:
            self._ending = True
            self._running += 1  # this one
        try:
            yield
        finally:
            self._ended()

    def _start(self, run: Callable[[], None], name: str) -> None:
        def run_and_end() -> None:
            try:
                run()
            except BaseException as exc:  # noqa: BLE001 - whatever it was: futures wait for this thread
                self._died(name, exc)
            finally:
                self._ended()

        with self._lock:
            self._running += 1
        # Daemons: an interpreter that exits does not wait for outcomes; see Client.leave_running.
        try:
            threading.Thread(target=run_and_end, name=f"flyexecutor {name}", daemon=True).start()
        except BaseException:
            self._ended()
            raise

    def _ended(self) -> None:
        with self._lock:
            self._running -= 1
            last = self._ending and not self._running
        if last:
            self._all_ended()
