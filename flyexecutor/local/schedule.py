"""Scheduled machines: started each hour, day, week or month from their creation on, as `config.schedule` says.

Owns a thread for each such machine, which waits for the next time; the machine's end, or an update to another schedule,
ends it. A machine that is running, or finds no room, misses the turn. The first run is the creation's own boot.
"""

import threading
import time
from contextlib import suppress

from flyexecutor.local.config import SCHEDULES
from flyexecutor.local.machine import Machine
from flyexecutor.local.pace import Pace
from flyexecutor.local.problems import Refused


class Schedules:
    """Those of all machines. A machine's own lock guards its entry."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._followed: dict[str, tuple[str, threading.Event]] = {}  # by machine: name, and the end of its thread

    def follow(self, machine: Machine) -> None:
        """Do what a machine's configuration says now. One that says the same as before keeps its times."""
        with machine.changed:
            name = machine.config.get("schedule")
            if machine.id in self._followed and self._followed[machine.id][0] == name:
                return
            self.end(machine.id)
            if not name or machine.state in {"destroying", "destroyed"}:
                return
            ended = threading.Event()
            self._followed[machine.id] = name, ended
        seconds = self._pace.here(SCHEDULES[name])
        thread = f"schedule {machine.id}"
        threading.Thread(target=_run, args=(machine, seconds, ended), name=thread, daemon=True).start()

    def end(self, machine_id: str) -> None:
        """Start a machine no more; its lock is held."""
        if followed := self._followed.pop(machine_id, None):
            followed[1].set()


def _run(machine: Machine, interval: float, ended: threading.Event) -> None:
    began, turn = time.monotonic(), 1
    while not ended.wait(max(0.0, began + turn * interval - time.monotonic())):
        with suppress(Refused), machine.changed:
            if ended.is_set():  # while we waited for the lock
                return
            machine.check_host("start")
            machine.start(source="flyd")
        # Times that have passed meanwhile are missed, not made up for.
        turn = max(turn, int((time.monotonic() - began) / interval)) + 1
