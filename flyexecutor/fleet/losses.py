"""Step 5: carries out what the policy wants of machines that do not run, do not join, or run for nobody. No thread.

The fleet's thread calls it. Killed in between: the next look, or that of another client, finds the same again.
"""

import logging
import time
from collections.abc import Callable

from flyexecutor.errors import MachinesError, MachineStartError
from flyexecutor.fleet import policy
from flyexecutor.fleet.api import MachinesClient
from flyexecutor.fleet.launch import Launcher
from flyexecutor.fleet.machine import Machine
from flyexecutor.fleet.turns import Turns
from flyexecutor.lane import Lane
from flyexecutor.names import visible
from flyexecutor.store.calls import Store

log = logging.getLogger("flyexecutor")


class Losses:
    """The machines of one lane that nobody counts on any longer."""

    def __init__(
        self,
        store: Store,
        machines: MachinesClient,
        launcher: Launcher,
        turns: Turns,
        *,
        troubled: Callable[[MachinesError, bool], None],
    ) -> None:
        self._store = store
        self._machines = machines
        self._launcher = launcher
        self._turns = turns
        self._troubled = troubled  # there is no machine yet, and why; whether that passes by itself

    def bury(self, lane: Lane, action: policy.Bury, now: float) -> bool:
        """Free the calls of a lost machine. Answers whether some run again. now: seconds since the epoch."""
        machine_id = action.machine_id
        gone, machine = self._is_gone(machine_id, action.machine, now)
        if not gone:
            return False
        reason = "it no longer exists" if machine is None else f"it is {machine.state} ({machine.exit or 'no exit'})"
        oom = bool(machine and machine.exit and machine.exit.oom_killed)
        calls = self._store.bury(lane, machine_id, action.joined, reason, oom=oom)
        if calls < 0:
            return False  # it has left by itself while we looked
        log.warning("machine %s is gone: %s; its calls (%d) run again or are lost", machine_id, visible(reason), calls)
        return calls > 0

    def give_up(self, lane: Lane, action: policy.GiveUp, now: float) -> bool:
        """Answers whether to start it again at once. now: seconds since the epoch."""
        machine_id = action.machine_id
        gone, machine = self._is_gone(machine_id, action.machine, now)
        if not gone:
            return False
        self._launcher.forget(machine_id)
        if machine and machine.exit is None:
            what = f"did not begin ({machine.state})"
        else:
            what = f"ended before its worker joined: {machine.exit if machine else 'it no longer exists'}"
        text = (
            f"machine {machine_id} {what}; see its log (fly logs) and that the image runs python -m flyexecutor.worker"
        )
        again = self._turns.give_up(action, time.monotonic(), lane.boot_timeout)
        self._troubled(MachineStartError(text, phase="boot", region=machine.region if machine else ""), again)
        return again

    def abandon(self, lane: Lane, action: policy.Abandon) -> None:
        """Another takes the place of a machine whose worker does not join."""
        machine_id, machine = action.machine_id, action.machine
        if not self._launcher.ledger.is_booting(machine_id) or self._store.is_worker(lane.name, machine_id):
            return
        self._launcher.forget(machine_id)
        if action.begun or machine is None:
            self._stop(machine_id)
            text = (
                f"the worker of machine {machine_id} did not join within {lane.boot_timeout:g} s (boot_timeout): "
                "see its log (fly logs) and that it can reach Redis (REDIS_URL)"
            )
            self._troubled(MachineStartError(text, phase="join"), False)
            return
        if machine.prepared:
            self._launcher.ledger.avoid(machine_id, time.monotonic())  # somebody has asked for it
        else:
            self._destroy(machine_id)
        text = f"machine {machine_id} is still {machine.state} after {lane.boot_timeout:g} s (boot_timeout)"
        self._troubled(MachineStartError(text, phase="boot", region=machine.region), True)

    def stop(self, action: policy.Stop) -> None:
        """Stop a machine that costs money for nothing."""
        log.warning("machine %s runs and has no worker: it is stopped", action.machine.id)
        self._launcher.forget(action.machine.id)
        self._stop(action.machine.id)

    def _is_gone(self, machine_id: str, listed: Machine | None, now: float) -> tuple[bool, Machine | None]:
        """Whether a machine that the list lacks is gone indeed, and what is known of it."""
        if listed is not None:
            return True, listed
        # A fresh machine may be missing in a list for a moment; a get that says 404 is certain.
        try:
            machine = self._machines.get(machine_id)
        except MachinesError as exc:
            log.warning("can't tell whether machine %s is gone: %s", machine_id, exc)
            return False, None
        return policy.gone(machine, now), machine

    def _stop(self, machine_id: str) -> None:
        try:
            self._machines.stop(machine_id)
        except MachinesError as exc:
            log.warning("machine %s could not be stopped: %s", machine_id, exc)

    def _destroy(self, machine_id: str) -> None:
        try:
            self._machines.destroy(machine_id)  # not by force: one that runs at last is refused
        except MachinesError as exc:
            log.info("machine %s was given up and stays for now: %s", machine_id, exc)
