"""Each machine's own way to the API, without a token: what is `/.fly/api` on Fly.

A Unix socket per machine in the run folder, from its first boot until it is destroyed, and a thread that accepts on it.
The API behind it is the same; the key OWN in a request's WSGI environment, which no header can set, says whose socket
it came through. A program that asks for its own suspension gets the answer after its processes have stopped: it reads
it when it has been resumed. Fly documents that call but not when its answer comes [unsure]: expect also none.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

OWN = "flyexecutor.local.machine"
BACKLOG = 16


class Handler(WSGIRequestHandler):
    """HTTP as the API speaks it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and body are written apart: 40 ms of delayed acknowledgement otherwise


class SocketHandler(Handler):
    """The same over a Unix socket, which has no such algorithm."""

    disable_nagle_algorithm = False


class Sockets:
    """The sockets of all machines that have booted and are not destroyed."""

    def __init__(self, run: Path) -> None:
        self.application: WSGIApplication | None = None  # must be set before the first machine boots
        self._run = run
        self._lock = threading.Lock()
        self._open: set[str] = set()

    def open(self, machine_id: str) -> Path:
        """The path of a machine's socket, which is made if it isn't there."""
        path = self._run / f"{machine_id}.api"
        with self._lock:
            if machine_id in self._open:
                return path
            assert self.application
            application = _of_machine(self.application, machine_id)
            with socket.socket(socket.AF_UNIX) as listener:
                # Bound here: http.server would look up a host that is called like the path, and the network of a
                # laptop may take its time to know of none.
                listener.bind(str(path))
                os.chmod(path, 0o600)
                listener.listen(BACKLOG)
                server = make_server(
                    f"unix://{path}",
                    0,
                    application,
                    threaded=True,
                    request_handler=SocketHandler,
                    fd=listener.fileno(),  # of which it makes a copy
                )
            self._open.add(machine_id)
        threading.Thread(target=self._serve, args=(server, machine_id), name=f"api {machine_id}", daemon=True).start()
        return path

    def close(self, machine_id: str) -> None:
        """Remove a machine's socket, if it has one."""
        with self._lock:
            if machine_id not in self._open:
                return
            self._open.discard(machine_id)
        path = self._run / f"{machine_id}.api"
        with suppress(OSError), socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))  # wakes _serve, which blocks until somebody calls
        path.unlink(missing_ok=True)

    def _serve(self, server: BaseWSGIServer, machine_id: str) -> None:
        with server:
            while machine_id in self._open:
                server.handle_request()  # in a thread of its own


def _of_machine(application: "WSGIApplication", machine_id: str) -> "Callable[..., Iterable[bytes]]":
    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
        environ[OWN] = machine_id
        return application(environ, start_response)

    return answer


def may_pass(own: str, view: str | None, arguments: "dict[str, Any]") -> bool:
    """Whether a request through a machine's own socket is one that it may make."""
    return view in {"machines.suspend", "machines.stop"} and arguments.get("machine_id") == own
