"""What a runner prints, call by call: passed on to the machine's log as it comes, its end kept for `future.logs()`.

Owns a pipe, whose other end is the runner's standard output and error. The runner writes a mark after each call. Reads
never block: a runner that prints more than is read waits. What the machine's log alone has of a call, why it failed,
comes between that mark and another one.
"""

import contextlib
import os
import secrets
from collections import deque

KEPT_BYTES = 32 * 1024  # of what one call prints: the end
READ_BYTES = 64 * 1024


class Output:
    """The reading end of one runner's output."""

    def __init__(self) -> None:
        self.fd, self.write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        self.mark = f"\x1e{secrets.token_hex(8)}\n"
        self._mark = self.mark.encode()
        self._unread = b""  # may be the beginning of a mark
        self._kept = bytearray()  # of the call that prints now
        self._ended: deque[bytes] = deque()
        self.news = False  # something was printed since `kept` was asked for

    def read(self) -> bool:
        """Take what is there. False if there was nothing."""
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return False
        *ended, last = (self._unread + data).split(self._mark)
        for text in ended:
            self._pass_on(text)
            self._ended.append(bytes(self._kept))
            self._kept.clear()
            self.news = False
        at = last.find(b"\x1e", max(0, len(last) - len(self._mark) + 1))
        self._unread = last[at:] if at >= 0 else b""
        self._pass_on(last[:at] if at >= 0 else last)
        return bool(data)

    def take(self) -> bytes:
        """The end of what a call has printed; asked once for each call that was answered, in their order."""
        # The mark was written before the answer: it is in the pipe.
        while not self._ended and self.read():
            pass
        return self._ended.popleft() if self._ended else b""

    def rest(self) -> bytes:
        """After the runner's death: the end of what its last call has printed."""
        while self.read():
            pass
        return bytes(self._kept)

    def kept(self) -> bytes:
        """The end of what the running call has printed so far."""
        self.news = False
        return bytes(self._kept)

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.fd)

    def _pass_on(self, text: bytes) -> None:
        if not text:
            return
        self._kept += text
        del self._kept[:-KEPT_BYTES]
        self.news = True
        with contextlib.suppress(BrokenPipeError):  # the machine's log has gone: it is about to stop
            view = memoryview(text)
            while view:
                view = view[os.write(2, view) :]
