"""How a machine suspends itself. Imported when that is due: a worker that starts does not need it. No thread.

Fly: a machine has a socket of its own, `/.fly/api`, over which it may suspend itself without a token; memory is kept,
and the next start resumes it in a few hundred milliseconds (https://fly.io/docs/machines/guides-examples/). Connections
are dead then, and the clock may lag. Whether a machine may be suspended was decided when it was created.
"""

import http.client
import logging
import os
import socket
from typing import Any

from flyexecutor.environment import REDIS_VARIABLE
from flyexecutor.names import visible
from flyexecutor.secrecy import passwords_of, scrub

SOCKET = "/.fly/api"
SOCKET_VARIABLE = "FLY_API_SOCKET"  # flyexecutor.local: machines share a file system, so each has a path of its own
PATIENCE = 30.0  # seconds of being awake; a suspension takes up to 15 (Fly's users)
MOST_SAID = 65536  # bytes of a refusal, which may quote all that this machine was told

log = logging.getLogger("flyexecutor.worker")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("fly", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock: Any = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


def suspend(app: str, machine_id: str) -> bool:
    """Ask for this machine to be suspended. Returns when it was and has been resumed, or is about to be.

    False: it will not be; its program has to end instead.
    """
    connection = _Connection(os.environ.get(SOCKET_VARIABLE, SOCKET))
    try:
        # Without a body, which http.client sends apart: the suspension comes between, and by then nobody reads it.
        connection.request("POST", f"/v1/apps/{app}/machines/{machine_id}/suspend")
        answer = connection.getresponse()
        if answer.status < 300:
            return True
        said = scrub(
            answer.read(MOST_SAID).decode(errors="replace"),
            passwords_of(os.environ.get(REDIS_VARIABLE, "")),
            os.environ,
        )
        log.warning("can't be suspended (HTTP %d), stops instead: %s", answer.status, visible(said[:500], lines=False))
    except (TimeoutError, BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
        return True  # asked for and not answered, or not even that: a snapshot may have been taken in between
    except (OSError, http.client.HTTPException) as exc:
        log.warning("can't be suspended, stops instead: %s", exc)
    finally:
        connection.close()
    return False
