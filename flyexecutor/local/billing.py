"""The meter: for how long each machine was billed, and how many requests the API got.

Owns no thread: machines tell it their new states. Fly bills a machine from `started` until it is stopped, suspended or
destroyed (https://fly.io/docs/about/pricing/, August 2026); what a second costs is none of its business.
"""

import threading
import time

UNBILLED = {"created", "stopped", "suspended", "failed", "destroyed"}


class Meter:
    """Seconds of this computer's clock, for each machine that ever was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}  # of the times that are over
        self._since: dict[str, float] = {}  # when the present time began
        self._requests = 0

    def became(self, machine_id: str, state: str) -> None:
        """A machine has a new state. A passing one changes nothing: a restart is billed, a cold boot is not."""
        now = time.monotonic()
        with self._lock:
            self._seconds.setdefault(machine_id, 0.0)
            if state == "started":
                self._since.setdefault(machine_id, now)
            elif state in UNBILLED and machine_id in self._since:
                self._seconds[machine_id] += now - self._since.pop(machine_id)

    def billed(self) -> dict[str, float]:
        """Machine id to seconds so far."""
        now = time.monotonic()
        with self._lock:
            return {
                machine_id: seconds + (now - self._since[machine_id] if machine_id in self._since else 0.0)
                for machine_id, seconds in self._seconds.items()
            }

    def count_request(self) -> None:
        """The API got a request."""
        with self._lock:
            self._requests += 1

    def requests(self) -> int:
        """How many it got so far."""
        with self._lock:
            return self._requests
