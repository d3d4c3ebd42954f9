"""gunicorn's worker with threads, of which no client has one for longer than it takes to send a request."""

import contextlib
import socket
import threading
from typing import Any

from gunicorn.workers.gthread import ThreadWorker


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """`gunicorn --worker-class demo.server.Worker`. gunicorn's own time-out is for processes."""

    read_timeout = 5.0  # seconds for head and body, at most 256 kB: visitors send some kB

    def handle(self, conn: Any) -> Any:
        """Called in a thread of the pool, for each request: reads it, has the app answer it."""
        cut = threading.Timer(self.read_timeout, _read_no_more, [conn.sock])
        cut.daemon = True
        cut.start()
        try:
            return super().handle(conn)
        finally:
            cut.cancel()


def _read_no_more(sock: socket.socket) -> None:
    # For reading alone: a request that is complete by now is answered as ever.
    with contextlib.suppress(OSError):  # closed meanwhile
        sock.shutdown(socket.SHUT_RD)
