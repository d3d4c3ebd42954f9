"""What ties a process to the guard of its local Fly: a Unix socket, which the kernel closes however the process ends.

Over it the process says what it wants, hears where everything is, and then what machines print, which a thread writes.

A local Fly with a name is found through a folder of this user's (`NAME.xxxxxxxx/guard` in it is the guard's socket).
Guard and server both hold the listening socket, and never close it: a connection that is refused means that both are
gone; one that ends before it is answered means that they were about to go, so who meets that asks again.
"""

import atexit
import fcntl
import json
import logging
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flyexecutor.local.problems import LocalError

log = logging.getLogger("flyexecutor")

GRACE = 10.0  # seconds that one with a name outlives the last process that uses it: a reloader starts the next
ANSWER_TIMEOUT = 60.0  # seconds
NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
GUARD = "guard"  # its socket in the run folder


class Connection:
    """This process's end. Whatever `fork` copies of it counts as well: a forked child uses the Fly of its parent."""

    def __init__(self, settings: Mapping[str, Any], environ: Mapping[str, str], *, name: str | None) -> None:
        """Start the guard, or join that of a name. Raises LocalError."""
        self._owner = os.getpid()
        self._shared = name is not None
        self._heard = b""
        self._left = False
        self._shower: threading.Thread | None = None
        while True:
            self._socket, self._guard = _reach(name, environ) if name is not None else _start_private(environ)
            self.greeting: dict[str, Any] = self._ask(settings)
            if self._shared and self._guard:
                self._guard.wait()  # it has forked itself away, to be nobody's child
            if self.greeting or self._guard:
                break
            self._socket.close()  # that one was about to end: now it has
        if "api_url" not in self.greeting:
            self.leave()
            raise LocalError(self.greeting.get("error", "the local Machines API ended while it started: see above"))
        if os.path.dirname(os.environ.get("FLY_API_SOCKET", "")) == self.greeting["run"]:
            # We are in a machine of this very Fly, and end with it; one that is suspended would keep it for ever.
            self.leave()
            return
        self._shower = threading.Thread(target=self._show, name="output of machines", daemon=True)
        self._shower.start()
        # A daemon thread that writes while the interpreter ends is a fatal error there.
        atexit.register(self._fall_silent)

    def leave(self) -> None:
        """Use it no longer. One that is this process's own has ended when this returns."""
        if self._left:
            return
        self._left = True
        if os.getpid() != self._owner:
            os.close(self._socket.detach())  # a forked child's copy
            return
        atexit.unregister(self._fall_silent)
        if self._guard and not self._shared:
            self._say(b"close\n")  # said, not only closed: a forked child may hold the socket open
            self._guard.wait()
        else:
            self._say(b"leave\n")
        self.wait()
        self._socket.close()

    def _say(self, what: bytes) -> None:
        with suppress(OSError):  # the guard has ended
            self._socket.sendall(what)

    def wait(self) -> None:
        """Return when the guard has ended, or this process has left."""
        if self._shower:
            self._shower.join()

    def _ask(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        self._socket.settimeout(ANSWER_TIMEOUT if self._shared else None)
        try:
            self._socket.sendall(json.dumps({**settings, "grace": GRACE}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(self._read_line() or b"{}")
        except ConnectionError:
            return {}
        except TimeoutError:
            self._socket.close()
            raise LocalError(f"it does not answer for {ANSWER_TIMEOUT:g} s: is its guard stopped?") from None
        self._socket.settimeout(None)
        return answer

    def _read_line(self) -> bytes:
        """The next line; empty at the end."""
        while b"\n" not in self._heard:
            more = self._socket.recv(65536)
            if not more:
                return b""
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line + b"\n"

    def _show(self) -> None:
        with suppress(ConnectionError):
            while line := self._read_line():
                write_line(line.decode(errors="replace"))
        if not self._left:
            log.warning("the local Fly has ended, with its calls: was its guard or server killed? Make a new executor")

    def _fall_silent(self) -> None:
        """Show what machines have printed until now, and nothing more."""
        if os.getpid() == self._owner:  # a forked child shares the socket, not the thread
            self._left = True
            self._say(b"leave\n")
            self.wait()


def write_line(line: str) -> None:
    """Write a line to standard error, above the progress bars of tqdm that are there. (Those of rich see to it.)"""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    with suppress(OSError, ValueError, AttributeError):  # closed, hung up, or there is none: nobody reads it
        if tqdm:
            # One that is being closed is no longer known to tqdm, and still stands there.
            clear = "\r\x1b[K" if sys.stderr.isatty() else ""
            tqdm.write(clear + line, file=sys.stderr, end="")
        else:
            sys.stderr.write(line)
            sys.stderr.flush()


def check_name(name: object) -> None:
    """Raises LocalError for what can't be the name of a local Fly."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise LocalError(f"the name {name!r} must be 1 to 40 letters, digits, - and _")


def _start_private(environ: Mapping[str, str]) -> "tuple[socket.socket, subprocess.Popen[bytes] | None]":
    ours, theirs = socket.socketpair()
    with theirs:
        return ours, _start_guard(theirs, environ)


def _reach(name: str, environ: Mapping[str, str]) -> "tuple[socket.socket, subprocess.Popen[bytes] | None]":
    """A connection to the guard of a name, and the guard if we have started it. Raises LocalError."""
    folder = _make_folder()
    try:
        return _connect(folder, name, environ)
    except OSError as exc:  # a full disk, one that may only be read, too many open files
        raise LocalError(f"{folder} can't be used: {exc.strerror}") from None


def _connect(
    folder: Path, name: str, environ: Mapping[str, str]
) -> "tuple[socket.socket, subprocess.Popen[bytes] | None]":
    with _locked(folder):
        for run in folder.glob(f"{name}.*"):
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(run / GUARD))
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                shutil.rmtree(run, ignore_errors=True)  # guard and server were killed together
            else:
                return connection, None
        run = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=folder))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(run / GUARD))
            listener.listen()
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(run / GUARD))
            return connection, _start_guard(listener, environ, str(run))


def _start_guard(stdin: socket.socket, environ: Mapping[str, str], *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "flyexecutor.local", *arguments],
        stdin=stdin.fileno(),
        stdout=subprocess.DEVNULL,
        env=dict(environ),
        # Ctrl-C in a terminal goes to the owner, which closes us in its own time.
        start_new_session=True,
    )


def _folder_of_user() -> Path:
    # In /tmp for each process alike: a login has XDG_RUNTIME_DIR, a service, a cron job and a container have not, and
    # macOS's TMPDIR leaves no room for the names of sockets.
    return Path(f"/tmp/flyexecutor-{os.getuid()}")


def _make_folder() -> Path:
    """The folder of this user's local Flys. Raises LocalError if it is not ours alone."""
    folder = _folder_of_user()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except FileExistsError:
        found = folder.lstat()
    except OSError as exc:
        raise LocalError(f"{folder} can't be made: {exc.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise LocalError(f"{folder} must be a folder of yours that nobody else may enter: remove it")
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone in it, for the moment that it takes to connect or to begin: two that come first are one after the other."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)  # said, not only closed: a child forked meanwhile holds it too
        os.close(lock)
