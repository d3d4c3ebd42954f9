"""Stops calls that run longer than their `timeout`, or that somebody wants killed. No thread: the loop asks it.

Orders come by the worker's inbox, which is read only while it has room for a call, or some call has run for a while, so
that short calls cost no command: an order waits there. An order is also a field of the call's record: one that nobody
reads any longer, because the machine died, is carried out by the script that queues the call again.
"""

import time
from collections.abc import Iterable, Sequence

from flyexecutor.call import ClaimedCall
from flyexecutor.worker.runner_process import KILLED, TIMED_OUT, RunnerProcess

ORDERS_AFTER = 0.5  # seconds that a call runs before its worker listens for orders


class Guard:
    """Which calls of this worker must end."""

    def __init__(self) -> None:
        self._wanted: set[str] = set()

    def want(self, call_ids: Iterable[str]) -> None:
        """These calls shall be killed."""
        self._wanted.update(call_ids)

    def listens(self, runners: Iterable[RunnerProcess]) -> bool:
        """Whether there is a call that could be the subject of an order."""
        return any(_runs_for(runner) >= ORDERS_AFTER for runner in runners)

    def listens_at(self, runners: Iterable[RunnerProcess]) -> Iterable[float]:
        """When it will (monotonic seconds)."""
        return (runner.answered_at + ORDERS_AFTER for runner in runners if runner.given)

    def due(self, runners: Iterable[RunnerProcess]) -> Iterable[float]:
        """When to `tend` although nothing happens (monotonic seconds)."""
        for runner in runners:
            if runner.patience is not None:
                yield runner.patience
            elif runner.given and runner.given[0].terms.timeout:
                yield runner.answered_at + runner.given[0].terms.timeout

    def tend(self, runners: Iterable[RunnerProcess]) -> list[ClaimedCall]:
        """Stop what must be stopped. Answers calls that were waiting behind, which another runner must have."""
        freed: list[ClaimedCall] = []
        for runner in runners:
            runner.force()
            if runner.stopping or not runner.given:
                continue
            head = runner.given[0]
            late = bool(head.terms.timeout) and _runs_for(runner) >= head.terms.timeout
            if late or any(call.id in self._wanted for call in runner.given):
                # What waits behind is taken back first: nothing may begin between our decision and the signal.
                freed += runner.take_back()
                if len(runner.given) == 1 and (late or head.id in self._wanted):
                    runner.stop(TIMED_OUT if late else KILLED)
        return freed

    def take_wanted(self, runners: Iterable[RunnerProcess], claimed: Sequence[ClaimedCall]) -> list[ClaimedCall]:
        """Those of the calls that nobody runs yet and that are wanted dead. Forgets orders for calls that went away."""
        held = {call.id for runner in runners for call in runner.given}
        taken = [call for call in claimed if call.id in self._wanted]
        self._wanted &= held
        return taken


def _runs_for(runner: RunnerProcess) -> float:
    return time.monotonic() - runner.answered_at if runner.given else 0.0
