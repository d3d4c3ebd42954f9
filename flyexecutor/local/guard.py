"""What the guard does while it runs: who uses this Fly, what they are told, and when the server is to end.

One thread, which waits for users, the server and what machines print. It never waits for a user that reads nothing.
"""

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

UNREAD = 1_000_000  # bytes that wait for a process which reads nothing; then lines are dropped, and nobody waits for it


class _User:
    """A process that uses this Fly, or several: a forked child shares its parent's connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.settings: dict[str, Any] | None = None
        self.said = b""
        self.unsent = b""
        self.left_out = 0  # bytes
        self.hears = True
        self.greeted = False
        self.leaves = False

    @property
    def shows(self) -> bool:
        """Whether it wants to have what machines print."""
        return self.greeted and self.hears and self.settings is not None and bool(self.settings["show_output"])

    def hear(self) -> list[bytes]:
        """The lines that it has said since. Raises EOFError when it is gone."""
        try:
            more = self.connection.recv(65536)
        except BlockingIOError:
            return []
        except ConnectionError:
            more = b""
        if not more:
            raise EOFError
        *lines, self.said = (self.said + more).split(b"\n")
        return lines

    def tell(self, data: bytes) -> None:
        """Say something; what it does not take at once is sent by a later `tell`."""
        if len(self.unsent) >= UNREAD:
            self.left_out += len(data)
        elif self.hears:
            if data and self.left_out:
                self.unsent += b"[%d bytes left out: nobody read them]\n" % self.left_out
                self.left_out = 0
            self.unsent += data
        try:
            self.unsent = self.unsent[self.connection.send(self.unsent) :]
            if self.leaves and not self.unsent:
                self.connection.shutdown(socket.SHUT_WR)
                self.hears = False
        except BlockingIOError:
            pass
        except OSError:  # it has left; a child that it has forked may still hold the connection, and use this Fly
            self.hears, self.unsent = False, b""


class Guard:
    """Of a run folder. Its attributes are many, since one thread hears users, the server and what machines print: three
    times what was said so far, and who waits for it.
    """

    def __init__(self, stdin: socket.socket, run: Path, *, shared: bool) -> None:
        self._stdin = stdin
        self._run = run
        self._shared = shared
        self._users: list[_User] = []  # the oldest first
        self._empty_since = time.monotonic()
        self._settings: dict[str, Any] | None = None
        self._hello = b""
        self._said = b""  # by the server
        self._waiting: deque[_User] = deque()  # for the server's word
        self._printed = b""
        self._selector = selectors.DefaultSelector()
        self._server: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket
        self._output: int
        self._ending = False
        self._running = True

    def run(self) -> None:
        """Until nobody uses it any more, or the server has ended."""
        if self._shared:
            self._selector.register(self._stdin, selectors.EVENT_READ, self._accept)
            self._accept()  # whoever started us is there already, or was killed
        else:
            self._admit(self._stdin)
        while self._running:
            patience = self._patience()
            if patience == 0.0:
                self._end()
            for key, _ in self._selector.select(patience):
                key.data()
        if self._server:
            self._server.wait()
            while self._show():  # its last words
                pass

    def _patience(self) -> float | None:
        """Seconds to wait for whatever comes; 0 if nobody has come in time."""
        if self._users or self._ending:
            return None
        grace = self._settings["grace"] if self._shared and self._settings else 0.0
        return max(0.0, self._empty_since + float(grace) - time.monotonic())

    def _accept(self) -> None:
        self._admit(self._stdin.accept()[0])

    def _admit(self, connection: socket.socket) -> None:
        user = _User(connection)
        self._users.append(user)
        self._watch(user, self._selector.register)

    def _watch(self, user: _User, how: Callable[..., object]) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if user.unsent else 0)
        how(user.connection, wanted, lambda: self._hear(user))

    def _tell(self, user: _User, data: bytes) -> None:
        user.tell(data)
        self._watch(user, self._selector.modify)

    def _hear(self, user: _User) -> None:
        try:
            for line in user.hear():
                if user.settings is None:
                    user.settings = json.loads(line)
                    self._settings = self._settings or self._start(user.settings)
                    if self._hello:
                        self._ask_server(user, user.settings["contents"])
                elif line == b"close":
                    self._end()
                else:
                    self._ask_server(user, None)  # it said "leave"
            self._tell(user, b"")  # it may have room for what it did not take
        except EOFError:
            self._selector.unregister(user.connection)
            user.connection.close()
            self._users.remove(user)
            self._empty_since = time.monotonic()

    def _start(self, settings: dict[str, Any]) -> dict[str, Any]:
        ours, theirs = socket.socketpair()
        self._output, writable = os.pipe()
        os.set_blocking(self._output, False)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "flyexecutor.local.server"],
                stdin=theirs.fileno(),
                stdout=writable,
                stderr=writable,
                # It never uses the socket: who connects while it still cleans up after us waits for its end.
                pass_fds=[self._stdin.fileno()] if self._shared else [],
            )
        os.close(writable)
        self._connection = ours
        self._connection.sendall(json.dumps({**settings, "run": str(self._run)}).encode() + b"\n")
        self._selector.register(ours, selectors.EVENT_READ, self._hear_server)
        self._selector.register(self._output, selectors.EVENT_READ, self._show)
        return settings

    def _ask_server(self, user: _User, image: dict[str, Any] | None) -> None:
        """Have the server know a user's image, before it begins, or show what was printed, before it leaves."""
        self._waiting.append(user)
        with suppress(OSError):  # it is gone, and we are about to see it
            self._connection.sendall(json.dumps(image).encode() + b"\n")

    def _hear_server(self) -> None:
        try:
            more = self._connection.recv(65536)
        except ConnectionError:  # killed before it had read what we said
            more = b""
        if not more:
            self._selector.unregister(self._connection)
            self._running = False
        *lines, self._said = (self._said + more).split(b"\n")
        for line in lines:
            if not self._hello:
                self._begin(json.loads(line))
            elif (user := self._waiting.popleft()) in self._users:
                self._answer(user)

    def _answer(self, user: _User) -> None:
        if not user.greeted:
            user.greeted = True
            self._tell(user, self._hello)
        else:
            while self._show():
                pass
            user.leaves = True
            self._tell(user, b"")

    def _begin(self, greeting: dict[str, Any]) -> None:
        """The server has come up, or has said why it can't."""
        greeting |= {"pid": os.getpid(), "run": str(self._run), "settings": self._settings}
        self._hello = json.dumps(greeting).encode() + b"\n"
        for user in self._users:
            if "error" in greeting:
                self._tell(user, self._hello)
            elif user.settings:
                self._ask_server(user, user.settings["contents"])
        # From now on nothing of ours holds what the process that started us was given: its end may be waited for.
        os.dup2(1, 2)

    def _show(self) -> bool:
        """What machines print is for the oldest of those that show it. False if there is nothing now."""
        try:
            printed = os.read(self._output, 65536)
        except BlockingIOError:
            return False
        if not printed:
            with suppress(KeyError):  # the second time
                self._selector.unregister(self._output)
        whole, newline, self._printed = (self._printed + printed).rpartition(b"\n")
        if not self._hello:
            os.write(2, printed)  # why it does not start, perhaps
        elif newline:
            for user in self._users:
                if user.shows:
                    self._tell(user, whole + newline)
                    if user.hears:
                        break
        return bool(printed)

    def _end(self) -> None:
        """Have the server end; what it still prints is shown until then."""
        if self._ending:
            return
        self._ending = True
        if self._shared:
            self._selector.unregister(self._stdin)  # and left open: who comes now waits for our end
        if self._server:
            with suppress(OSError):  # ENOTCONN, of macOS: it has just ended by itself
                self._connection.shutdown(socket.SHUT_WR)
        else:
            self._running = False
