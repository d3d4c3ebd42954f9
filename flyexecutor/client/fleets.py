"""The fleets of one client: one for each lane that its calls use or may go to, made when a call comes that needs it.

Owns no thread: that of a fleet is one of the client's. `close` ends them all, and none is made afterwards.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from flyexecutor.client.threads import Threads
from flyexecutor.errors import MachineStartError
from flyexecutor.fleet.fleet import Fleet
from flyexecutor.lane import Lane
from flyexecutor.store.calls import Granted

log = logging.getLogger("flyexecutor")


class Fleets:
    """By the names of their lanes."""

    def __init__(self, lanes: dict[str, Lane], make: Callable[[Lane], Fleet] | None, threads: Threads) -> None:
        """lanes: those that are known, also before a fork. make: None if nobody here may start machines."""
        self._lanes = lanes
        self._make = make
        self._threads = threads
        self._lock = threading.RLock()  # guards what follows; again by a finaliser that runs inside
        self._fleets: dict[str, Fleet] = {}
        self._closed = False

    def know(self, lanes: Iterable[Lane]) -> None:
        """Lanes that calls use, or may go to when they run out of memory; with new limits, perhaps."""
        for lane in (known for given in lanes for known in (given, *given.others)):
            self._lanes[lane.name] = lane
            if fleet := self._fleets.get(lane.name):
                fleet.change_lane(lane)

    def used(self) -> set[str]:
        """The names of all lanes but for those under other keys of the ring."""
        lanes = list(self._lanes.values())
        return {lane.name for lane in lanes} - {other.name for lane in lanes for other in lane.others}

    def ready(self, lane: Lane) -> Lane:
        """Have the fleets of a lane to which a call is about to go. Answers the lane with the limits of now."""
        lane = self._lanes.get(lane.name, lane)
        self._of(lane.name)
        for other in lane.others:
            self._of(other.name)
        return lane

    def tend(self, name: str) -> None:
        """A call has gone to a lane: see that it has a machine there, if it is one of ours."""
        if fleet := self._of(name):
            fleet.tend()

    def start_soon(self, lane: Lane, granted: Granted) -> None:
        """Calls were stored: start what Redis has granted."""
        if fleet := self._fleets.get(lane.name):
            fleet.start_soon(granted)
        for other in lane.others:
            if fleet := self._fleets.get(other.name):
                fleet.watch()

    def secure(self, deadline: float | None) -> None:
        """Return when there is a worker for each lane's calls, or Fly has accepted a start. Raises MachineStartError.

        deadline: monotonic seconds.
        """
        for fleet in list(self._fleets.values()):
            fleet.secure(None if deadline is None else _left(deadline))

    def leave_running(self, deadline: float) -> None:
        """The same before the process exits, with all machines that are owed as far as there is time."""
        for fleet in list(self._fleets.values()):
            # One machine is enough for the calls to be run; with all that are owed they run sooner.
            if not fleet.settle(_left(deadline)):
                log.warning("some machines were not asked for before the exit: calls may run later than they could")
            try:
                fleet.secure(_left(deadline))
            except MachineStartError as exc:
                log.warning("%s", exc)

    def close(self) -> None:
        """Have their threads end."""
        with self._lock:
            self._closed = True
        for fleet in self._fleets.values():
            fleet.close()

    def _of(self, name: str) -> Fleet | None:
        lane = self._lanes.get(name)
        if lane is None or self._make is None:
            return None  # another client's, or nobody here may start machines
        if known := self._fleets.get(name):
            return known
        with self._lock:
            known = self._fleets.get(name)
            if known or self._closed:
                return known
            fleet = self._fleets[name] = self._make(lane)
            self._threads.add(fleet.run, "fleet")
        self._threads.start()
        return fleet


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
