"""Which ends of a machine's program are answered by a restart. Its machine's lock guards it.

Fly: `on-failure` restarts up to max_retries times within five minutes
(https://fly.io/docs/machines/guides-examples/machine-restart-policy/, August 2026).
"""

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

WINDOW = 300.0  # seconds in which they are counted
DEFAULT_RETRIES = 10


class Restarts:
    """Those of one machine. window: seconds in which they are counted."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._times: deque[float] = deque()

    def forget(self) -> None:
        """Somebody has started it: count anew."""
        self._times.clear()

    def count(self) -> int:
        """How many there were lately."""
        since = time.monotonic() - self._window
        while self._times and self._times[0] <= since:
            self._times.popleft()
        return len(self._times)

    def follows(self, policy: Mapping[str, Any], code: int) -> bool:
        """Whether one follows on this exit code."""
        kind = policy.get("policy") or "on-failure"  # Fly: the default when unset
        if kind == "on-failure":
            return code != 0 and self.count() < (policy.get("max_retries") or DEFAULT_RETRIES)
        return kind == "always"

    def note(self) -> None:
        """There is one now."""
        self._times.append(time.monotonic())
