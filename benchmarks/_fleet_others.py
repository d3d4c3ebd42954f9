"""What our fleet is compared with, on the same model of Fly: one machine per call, and FLAME's way.

Both are treated kindly: they hear of a dead machine at once and run its call again.
"""

from collections import deque
from collections.abc import Sequence

from benchmarks._clock import Clock
from benchmarks._fleet_fly import Box, SimulatedFly
from benchmarks._fleet_redis import Call
from flyexecutor.errors import MachinesError

AGAIN = 1.0  # seconds after a 429
IDLE_SHUTDOWN = 30.0  # seconds: FLAME's default


class Runner:
    """A machine of theirs, and the call that it runs."""

    def __init__(self, fleet: "OnePerCall | Flame", box: Box) -> None:
        self.box = box
        self.call: Call | None = None
        self.turns = 0
        self._fleet = fleet

    def begin(self) -> None:
        """It has booted."""
        self._fleet.up(self)

    def go_on(self) -> None:
        """Never: they don't suspend."""

    def die(self) -> None:
        """Its call runs again."""
        self.turns += 1
        self._fleet.down(self)

    def run(self, clock: Clock, call: Call) -> None:
        """Run a call."""
        self.turns += 1
        self.call = call
        if call.began is None:
            call.began = clock.now
        clock.after(call.seconds, self._finish, self.turns, clock)

    def _finish(self, turn: int, clock: Clock) -> None:
        if turn == self.turns and self.call:
            self.call.ended = clock.now
            self.call = None
            self._fleet.free(self)


class _Fleet:
    """Calls that wait, and machines that are created: at once while Fly allows it, else one try a second."""

    def __init__(self, clock: Clock, max_workers: int) -> None:
        self.ended = 0
        self.fly: SimulatedFly
        self._clock = clock
        self._max_workers = max_workers
        self._waiting: deque[Call] = deque()
        self._booting = 0
        self._timer = False

    def submit(self, calls: Sequence[Call]) -> None:
        """Calls have come."""
        for call in calls:
            self._waiting.append(call)
            self._place()

    def _place(self) -> None:
        raise NotImplementedError

    def _missing(self) -> bool:
        """Whether one more machine is to be created."""
        return len(self._waiting) > self._booting and len(self.fly.boxes) < self._max_workers

    def _boot(self) -> None:
        try:
            self.fly.create(keeper=False)
        except MachinesError:
            if not self._timer:
                self._timer = True
                self._clock.after(AGAIN, self._boot_again)
        else:
            self._booting += 1

    def _boot_again(self) -> None:
        self._timer = False
        if self._missing():
            self._boot()
            if self._missing() and not self._timer:
                self._timer = True
                self._clock.after(AGAIN, self._boot_again)

    def _rerun(self, runner: Runner) -> None:
        if runner.call:
            runner.call.losses += 1
            self._waiting.appendleft(runner.call)
            runner.call = None
        self._place()


class OnePerCall(_Fleet):
    """The proof of concept: a machine is created for each call, and destroyed after it."""

    def up(self, runner: Runner) -> None:
        """A machine has booted."""
        self._booting -= 1
        if self._waiting:
            runner.run(self._clock, self._waiting.popleft())
        else:
            self.fly.end(runner.box)

    def free(self, runner: Runner) -> None:
        """A call has ended."""
        self.ended += 1
        self.fly.end(runner.box)

    def down(self, runner: Runner) -> None:
        """A machine has died."""
        self._booting -= runner.turns == 1 and runner.call is None
        self._rerun(runner)

    def _place(self) -> None:
        if not self._timer and self._missing():
            self._boot()


class Flame(_Fleet):
    """FLAME's pool: an idle runner, else a new one at once, up to `max`; a runner that is idle for long ends."""

    def __init__(self, clock: Clock, max_workers: int) -> None:
        super().__init__(clock, max_workers)
        self._idle: dict[str, Runner] = {}

    def up(self, runner: Runner) -> None:
        """A runner has booted."""
        self._booting -= 1
        self._next(runner)

    def free(self, runner: Runner) -> None:
        """A call has ended."""
        self.ended += 1
        self._next(runner)

    def down(self, runner: Runner) -> None:
        """A runner has died."""
        self._booting -= runner.turns == 1 and runner.call is None
        self._idle.pop(runner.box.id, None)
        self._rerun(runner)

    def _next(self, runner: Runner) -> None:
        if self._waiting:
            runner.run(self._clock, self._waiting.popleft())
            return
        runner.turns += 1
        self._idle[runner.box.id] = runner
        self._clock.after(IDLE_SHUTDOWN, self._shut_down, runner, runner.turns)

    def _shut_down(self, runner: Runner, turn: int) -> None:
        if runner.turns == turn:
            del self._idle[runner.box.id]
            self.fly.end(runner.box)

    def _place(self) -> None:
        if self._idle and self._waiting:
            name = next(iter(self._idle))
            self._idle.pop(name).run(self._clock, self._waiting.popleft())
        elif not self._timer and self._missing():
            self._boot()
