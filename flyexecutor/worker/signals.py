"""The signals of a worker, as bytes in a socket, so that one poll sees them beside all else that it waits for.

CPython writes them there whatever it is doing (signal.set_wakeup_fd). Owns the socket and no thread; the handlers stay
as long as the process.
"""

import signal
import socket

STOP = frozenset({signal.SIGTERM, signal.SIGINT})


class Signals:
    """SIGTERM, SIGINT and SIGCHLD of this process."""

    def __init__(self) -> None:
        self._out, self._in = socket.socketpair()
        self._out.setblocking(False)
        self._in.setblocking(False)
        signal.set_wakeup_fd(self._in.fileno(), warn_on_full_buffer=False)
        for number in (*STOP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def fileno(self) -> int:
        """Readable once a signal has come."""
        return self._out.fileno()

    def take(self) -> bool:
        """Take those that have come. Whether the worker is to stop."""
        return not STOP.isdisjoint(self._out.recv(4096))
