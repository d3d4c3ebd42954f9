"""The kernel's part when a machine runs out of memory: the largest process of one that names a guest size is killed.

A thread per such machine looks ten times a second, since a group of processes has no limit that the kernel would keep
without root; it ends with the machine. Machines without a guest are as large as this computer.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

LOOK_EVERY = 0.1  # seconds
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class MemoryLimit:
    """Watches the processes below one, until `end`."""

    def __init__(self, pid: int, limit_bytes: int, killed: Callable[[int], None]) -> None:
        self._pid = pid
        self._limit = limit_bytes
        self._killed = killed  # is told the process, before it is killed
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name=f"memory of {pid}", daemon=True).start()

    def end(self) -> None:
        """Watch no longer."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY):
            sizes = {pid: _resident_bytes(pid) for pid in _family(self._pid)}
            if sum(sizes.values()) > self._limit:
                largest = max(sizes, key=lambda pid: sizes[pid])
                self._killed(largest)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(largest, signal.SIGKILL)


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):  # it has just ended
            found += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return found


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0
