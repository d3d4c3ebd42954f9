"""A virtual clock for simulations: a heap of what happens next, and programs that sleep in virtual time. No thread."""

import heapq
import itertools
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pause:
    """What a program yields: it goes on after so many seconds, or sooner if it may be woken and is."""

    seconds: float = math.inf
    wakeable: bool = False


Steps = Generator[Pause, None, None]


class Clock:
    """Virtual seconds. What is due at the same moment happens in the order in which it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0  # that have happened
        self._heap: list[tuple[float, int, Callable[..., object], tuple[object, ...]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, do: Callable[..., object], *args: object) -> None:
        """Have this done in so many seconds."""
        heapq.heappush(self._heap, (self.now + seconds, next(self._numbers), do, args))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let happen what happens, until then or until `done`."""
        heap = self._heap
        while heap and heap[0][0] <= until and not done():
            self.now, _, do, args = heapq.heappop(heap)
            self.events += 1
            do(*args)


class Program:
    """A thread in virtual time: a generator that yields its pauses."""

    def __init__(self, clock: Clock, steps: Steps) -> None:
        self._clock = clock
        self._steps = steps
        self._ticket = 0  # of the pause that it is in: whatever belongs to an earlier one comes too late
        self._wakeable = False
        clock.after(0.0, self._go_on, 0)

    def wake(self) -> None:
        """End its pause, if that may be."""
        if self._wakeable:
            self._wakeable = False
            self._ticket += 1
            self._clock.after(0.0, self._go_on, self._ticket)

    def _go_on(self, ticket: int) -> None:
        if ticket != self._ticket:
            return
        self._wakeable = False
        pause = next(self._steps, None)
        if pause is None:
            return
        self._ticket += 1
        self._wakeable = pause.wakeable
        if pause.seconds < math.inf:
            self._clock.after(pause.seconds, self._go_on, self._ticket)
