"""Our worker in virtual time: mirrors `worker/membership.py` and what the worker's loop does around it.

Left out: `max_lifetime`, and calls that are claimed ahead, since calls here take seconds.
"""

from collections.abc import Callable

from benchmarks._clock import Clock
from benchmarks._fleet_fly import Box, SimulatedFly
from benchmarks._fleet_redis import Call, SimulatedRedis
from flyexecutor.worker.loop import WAKE_PATIENCE
from flyexecutor.worker.membership import LEAVE_AGAIN


class SimulatedWorker:
    """The worker of one machine, of `Membership` and the loop around it."""

    def __init__(self, clock: Clock, lane: SimulatedRedis, fly: Callable[[], SimulatedFly], box: Box) -> None:
        self.name = box.id
        self._clock = clock
        self._lane = lane
        self._fly = fly
        self._box = box
        self._turns = 0  # grows with whatever it does: a plan of an earlier one is void
        self._alive = True
        self._idle_since = 0.0
        self._spare = False
        self._ask_from = 0.0
        self._turn_at: float | None = None

    # Guest

    def begin(self) -> None:
        """Join, having booted."""
        self._lane.join(self.name)
        self._joined()

    def go_on(self) -> None:
        """Join, having been resumed; end if nobody has started this machine."""
        if self._lane.join_if_started(self.name):
            self._joined()
        else:
            self._clock.after(WAKE_PATIENCE, self._end_unwanted, self._turns)

    def die(self) -> None:
        """Nobody hears of it: it has its place still."""
        self._alive = False
        self._turns += 1

    # Work

    def read(self, call: Call) -> bool:
        """Run a call; False: it is not read."""
        self._turns += 1
        if self._alive:
            self._clock.after(call.seconds, self._finish, call, self._turns)
        return self._alive

    def _finish(self, call: Call, turn: int) -> None:
        if turn != self._turns:
            return
        spare, following = self._lane.finish(self.name, call)
        self._worked(spare=spare)
        if following:
            self.read(following)
        else:
            self._wait()

    def _joined(self) -> None:
        self._worked(spare=True)
        self._ask_from = self._idle_since + LEAVE_AGAIN
        self._wait()

    def _worked(self, *, spare: bool) -> None:
        self._idle_since = self._clock.now
        self._spare = spare

    def _wait(self) -> None:
        """Ask for a call, until it may leave."""
        now = self._clock.now
        patient = 0.0 if self._spare else self._idle_since + self._lane.rules.idle_timeout
        leaves_at = max(self._ask_from, patient)
        if leaves_at <= now:
            self._leave(self._turns)
            return
        self._turns += 1
        self._clock.after(leaves_at - now, self._leave, self._turns)
        self._lane.claim(self)

    # Leave

    def _leave(self, turn: int) -> None:
        if turn != self._turns:
            return
        now, rules = self._clock.now, self._lane.rules
        stay = self._lane.leave(
            self.name,
            max(0.0, self._idle_since + rules.idle_timeout - now),
            suspends=self._box.keeper and not (self._turn_at is not None and now >= self._turn_at),
            rests=self._box.keeper,
        )
        if stay is not None:
            self._ask_from = now + max(stay.seconds, LEAVE_AGAIN)
            if stay.why == "turn":
                self._turn_at = self._ask_from
            else:
                self._spare = False
            self._wait()
            return
        self._turn_at = None
        if self._box.keeper:
            self._fly().suspend(self._box)
        else:
            self._fly().end(self._box)

    def _end_unwanted(self, turn: int) -> None:
        if turn == self._turns and self._alive and self.name not in self._lane.workers:
            if self._lane.join_if_started(self.name):
                self._joined()
            elif self._box.state == "started":
                self._fly().end(self._box)
