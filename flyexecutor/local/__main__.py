"""The guard: `python -m flyexecutor.local`, started by a `connection.Connection` and by nobody else.

Owns the run folder and the server process, and the connections of those who use this Fly. The last one's end, seen as
end-of-file, ends the server; the server's end, of itself or by force, is followed by a clean-up here. If the guard is
killed, the server cleans up.

Standard input is the connection of the one process that uses it; or, if a run folder is given, the socket to which
any process of this user may connect: then this process is nobody's child, and outlives the last of them by `grace`.
"""

import os
import resource
import socket
import sys
import tempfile
from pathlib import Path

from flyexecutor.local.guard import Guard
from flyexecutor.local.processes import clean_up

PREFIX = "flyexecutor-local-"
LONGEST_FOLDER = 103 - len("/0123456789abcd.api")  # of a socket's path, by macOS; Linux allows four bytes more
FILES = 10240  # that a process may have open; macOS allows no more


def _allow_files() -> None:
    """Machines are computers of their own: the limit of our terminal, 256 open files on macOS, is not for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _run_folder() -> Path:
    """A new folder in which only we may read; its path is short enough for the sockets of machines."""
    usual = os.path.join(tempfile.gettempdir(), f"{PREFIX}12345678")
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=None if len(os.fsencode(usual)) <= LONGEST_FOLDER else "/tmp"))


def main() -> int:
    """Run until the last user goes or the server ends. Answers the exit code."""
    shared = sys.argv[1:]
    if shared and os.fork():
        os._exit(0)
    _allow_files()
    run = Path(shared[0]) if shared else _run_folder()
    stdin = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    try:
        Guard(stdin, run, shared=bool(shared)).run()
    finally:
        clean_up(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
