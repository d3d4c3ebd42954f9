"""Step 5, for who waits: whether the calls that are stored have a machine, so that they run without this client.

What was stored until a moment is secured when it has a worker, or a machine that Fly has accepted (a worker does not
leave while calls wait), or when it has ended. No thread: the fleet's and the launches' tell, any other waits.
"""

import threading
import time
from collections.abc import Callable

from flyexecutor.lane import Lane
from flyexecutor.store.calls import Store


class Assurance:
    """Of one client for one lane. All moments are monotonic."""

    def __init__(self, store: Store, changed: threading.Condition) -> None:
        self._store = store
        self._changed = changed  # the fleet's; it guards what follows
        self._wanted_at = 0.0  # when calls were last stored, or a reservation granted to us
        self._secured_at = 0.0

    @property
    def wanted_at(self) -> float:
        """Until when something was stored."""
        with self._changed:
            return self._wanted_at

    def covers(self, moment: float) -> bool:
        """Whether what was stored until then is secured."""
        with self._changed:
            return self._secured_at >= moment

    def want(self, now: float) -> None:
        """Calls were stored, or a reservation was granted to us."""
        with self._changed:
            self._wanted_at = now

    def secure(self, until: float) -> None:
        """Nothing that was stored until then depends on us any longer."""
        with self._changed:
            self._secured_at = max(self._secured_at, until)
            self._changed.notify_all()

    def see_worker(self, lane: Lane) -> bool:
        """Look whether a worker is there."""
        asked_at = time.monotonic()
        found = self._store.has_workers(lane)
        if found:
            self.secure(asked_at)
        return found

    def see(self, lane: Lane) -> None:
        """Look whether a worker is there, or the calls have ended."""
        asked_at = time.monotonic()
        if not self.see_worker(lane) and self._store.has_no_calls(lane):
            self.secure(asked_at)  # they have ended, or their keys were those of calls in other lanes

    def wait(self, moment: float, timeout: float, given_up: Callable[[], bool]) -> bool:
        """Wait until what was stored until then is secured; False after so many seconds, or once it is given up."""
        with self._changed:
            self._changed.wait_for(lambda: given_up() or self._secured_at >= moment, timeout)
            return self._secured_at >= moment
