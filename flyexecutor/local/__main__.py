"""The guard: `python -m flyexecutor.local`, started by LocalFly and by nobody else.

Owns the run folder and the server process. Its owner's end, seen as end-of-file, ends the server; the server's end, of
itself or by force, is followed by a clean-up here. If the guard is killed, the server cleans up.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

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
    """Run until the owner goes or the server ends. Answers the exit code."""
    settings = json.loads(sys.stdin.buffer.readline())
    _allow_files()
    run = _run_folder()
    settings["run"] = str(run)
    server = subprocess.Popen([sys.executable, "-m", "flyexecutor.local.server"], stdin=subprocess.PIPE)
    sys.stdout.close()  # the server has it: an owner who waits for the ready line must see the server's end
    assert server.stdin
    server_stdin = server.stdin

    def follow_owner() -> None:
        server_stdin.write(json.dumps(settings).encode() + b"\n")
        server_stdin.flush()
        sys.stdin.buffer.readline()  # "close", or end-of-file
        server_stdin.close()

    threading.Thread(target=follow_owner, daemon=True).start()
    code = server.wait()
    clean_up(run)
    return code


if __name__ == "__main__":
    sys.exit(main())
