"""What machines print: whole lines on our standard error, each with the machine's id, as `fly logs` shows it.

Owns one thread for all of them, which begins with the first. A machine's pipe ends with the last process that has it.
"""

import os
import selectors
import sys
import threading

from flyexecutor.names import visible

READ_BYTES = 65536
LONGEST_LINE = 65536  # bytes; what is longer is several


class Output:
    """The reading ends of machines' pipes."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()  # a pipe is read, and what was read is written, by one thread at a time
        self._begun: dict[int, bytes] = {}  # by pipe: a line whose end is still to come
        self._thread: threading.Thread | None = None

    def open(self, machine_id: str) -> int:
        """A file descriptor for what a machine prints."""
        readable, writable = os.pipe()
        os.set_blocking(readable, False)
        with self._lock:
            self._begun[readable] = b""
            self._selector.register(readable, selectors.EVENT_READ, machine_id)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="output", daemon=True)
                self._thread.start()
        return writable

    def drain(self) -> None:
        """Show all that has been printed until now."""
        with self._lock:
            for key in list(self._selector.get_map().values()):
                while self._read(key):
                    pass

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                with self._lock:
                    if key.fd in self._begun:
                        self._read(key)

    def _read(self, key: selectors.SelectorKey) -> bool:
        """Show what is in a pipe. False if that was nothing, or its end."""
        try:
            printed = os.read(key.fd, READ_BYTES)
        except BlockingIOError:
            return False
        *lines, begun = (self._begun[key.fd] + printed).split(b"\n")
        if not printed:
            self._selector.unregister(key.fd)
            os.close(key.fd)
            del self._begun[key.fd]
            lines += [begun] if begun else []
        elif len(begun) > LONGEST_LINE:
            lines, self._begun[key.fd] = [*lines, begun], b""
        else:
            self._begun[key.fd] = begun
        for line in lines:
            # As on a terminal: a progress bar writes over itself.
            text = visible(line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="backslashreplace"))
            sys.stderr.buffer.write(f"[{key.data}] {text}\n".encode())
        sys.stderr.buffer.flush()
        return bool(printed)
