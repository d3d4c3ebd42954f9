"""A program in a terminal of its own: a real pty, in which Ctrl-C is a real SIGINT for all of its foreground."""

import fcntl
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Mapping
from typing import Self


class Terminal:
    """Runs Python with these arguments; `shown` is all that it has printed so far."""

    def __init__(self, *arguments: str, environ: Mapping[str, str]) -> None:
        self.shown = ""
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (40, 200))
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "PYTHONPATH": os.getcwd(), "TERM": "xterm", **environ},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one call of the kernel
        )
        os.close(theirs)

    def press_ctrl_c(self) -> None:
        os.write(self._ours, b"\x03")

    def read_until(self, word: str | None) -> str:
        """Blocks until there is this word in what it has printed; None: until its end."""
        while word is None or word not in self.shown:
            try:
                piece = os.read(self._ours, 65536)
            except OSError:  # Linux, when the other side is closed; macOS reads nothing then
                piece = b""
            if not piece:
                assert word is None, self.shown
                break
            self.shown += piece.decode(errors="replace")
        return self.shown

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
