"""Whether a Redis is away, as the threads of this process find it: told once when it goes, and once when it
is back.

Owns no thread and no lock: each change is one step of a dict or a list, which several threads may take at once.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator

from flyexecutor.errors import RedisUnavailableError

log = logging.getLogger("flyexecutor")


class _Outage:
    def __init__(self) -> None:
        self.since = time.monotonic()
        self.failed: dict[threading.Thread, float] = {}  # and when it did first
        self.untold = [True]  # whoever takes it out tells


_now: dict[str, _Outage] = {}  # by the server's address


@contextlib.contextmanager
def noticed(address: str) -> Iterator[None]:
    """Around what a thread asks a server for: if it can't be reached, or can be again, that is told."""
    began = time.monotonic()
    try:
        yield
    except RedisUnavailableError as exc:
        note(address, exc)
        raise
    outage = _now.get(address)
    # What was asked before it went may be answered after: that is no sign of its return.
    if outage and outage.since < began and _now.pop(address, None) is outage and not outage.untold:
        log.warning("Redis at %s answers again, after %.0f s", address, time.monotonic() - outage.since)


def note(address: str, error: RedisUnavailableError) -> None:
    """A thread could not reach a server. Told when it finds so twice in a row: once may be a cut connection."""
    outage = _now.setdefault(address, _Outage())
    now = time.monotonic()
    since = outage.failed.setdefault(threading.current_thread(), now)
    if since is not now and outage.untold:
        with contextlib.suppress(IndexError):  # another thread was faster
            outage.untold.pop()
            outage.since = since  # not when a thread failed that was about to end
            log.warning("%s (told once, until it answers again)", error)


def _forget() -> None:
    _now.clear()


os.register_at_fork(after_in_child=_forget)  # it has other threads, and tells for itself
