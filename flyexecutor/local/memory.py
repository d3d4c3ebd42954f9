"""The kernel's part when a machine runs out of memory: the largest process of one that names a guest size is killed.

A thread per such machine looks ten times a second while it is awake, since a group of processes has no limit that the
kernel would keep without root; it ends with the machine. Machines without a guest are as large as this computer. A
process that has left its machine's session is not counted.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable

import psutil

LOOK_EVERY = 0.1  # seconds


class MemoryLimit:
    """Watches the processes of a machine, by the number of its main one, until `end`."""

    def __init__(self, pid: int, limit_bytes: int, killed: Callable[[int], None]) -> None:
        self._pid = pid
        self._limit = limit_bytes
        self._killed = killed  # is told the process, before it is killed
        self._ended = threading.Event()
        self._awake = threading.Event()
        self._awake.set()
        threading.Thread(target=self._watch, name=f"memory of {pid}", daemon=True).start()

    def pause(self) -> None:
        """They are stopped, and grow no more: do nothing, since hundreds may be, until `resume`."""
        self._awake.clear()

    def resume(self) -> None:
        """They go on."""
        self._awake.set()

    def end(self) -> None:
        """Watch no longer."""
        self._ended.set()
        self._awake.set()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY):
            self._awake.wait()
            sizes = _resident_bytes(self._pid)
            if sum(sizes.values()) > self._limit:
                largest = max(sizes, key=lambda pid: sizes[pid])
                self._killed(largest)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(largest, signal.SIGKILL)


def _resident_bytes(session: int) -> dict[int, int]:
    """The resident bytes of each process of a session; of none where the computer doesn't show them (no /proc)."""
    sizes = {}
    # By session, one system call for each process: psutil's tree of processes costs ten times that.
    for pid in psutil.pids() if psutil.pid_exists(session) else ():
        with contextlib.suppress(OSError, psutil.Error):  # it has just ended, or is not ours to see
            if os.getsid(pid) == session:
                sizes[pid] = psutil.Process(pid).memory_info().rss
    return sizes
