"""Fly's bad days: answers that are late, wrong or missing, regions that are full, states that never end.

Owns the rules and one source of chance, from which each request draws the same number of times: with the same seed the
same request of a sequence goes wrong, whatever its neighbours do. The words of the
refusals are those seen on Fly where a thread shows them, else likely ones [unsure]: clients must read status and sense.
"""

import itertools
import random
import threading
from dataclasses import dataclass
from typing import Any

from flyexecutor.local.problems import Refused

STUCK = {"created", "starting", "stopping", "suspending"}
MEMORY = "aborted: could not reserve resource for machine: insufficient memory available to fulfill request"
NO_ROOM = (
    (412, "failed_precondition: insufficient resources to create new machine", None),
    (409, MEMORY, None),
    (422, "no capacity is left in this region", "insufficient_capacity"),
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What goes wrong: probabilities from 0 to 1, seconds (from and to), regions, states, megabytes."""

    seed: int = 0
    latency: tuple[float, float] = (0.0, 0.0)
    too_many: float = 0.0
    broken: float = 0.0
    lost_answers: float = 0.0
    no_answer: float = 0.0
    no_capacity: frozenset[str] = frozenset()
    stuck: frozenset[str] = frozenset()
    invisible: float = 0.0
    stays_created: bool = False
    still_active: float = 0.0
    suspend_mb: int = 4096

    def __post_init__(self) -> None:
        if self.stuck - STUCK:
            raise Refused(400, f"no machine can be stuck in {sorted(self.stuck - STUCK)}, only in {sorted(STUCK)}")


class Faults:
    """The rules that hold now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.set({})

    def set(self, given: dict[str, Any]) -> None:
        """Replace the rules, and start the chances anew."""
        sets = {name: frozenset(given.get(name, ())) for name in ("no_capacity", "stuck")}
        rules = Rules(**(given | sets))
        with self._lock:
            self.rules = rules
            self._random = random.Random(rules.seed)
            self._no_room = itertools.cycle(NO_ROOM)

    def draw(self) -> tuple[float, str | None, int]:
        """For one request: seconds of delay, what goes wrong, and a status in case that it is a broken answer."""
        with self._lock:
            rules = self.rules
            delay = self._random.uniform(*rules.latency)
            status = self._random.choice((500, 502, 503))
            wrong = None
            for kind in ("no_answer", "too_many", "broken", "lost_answers"):
                if self._random.random() < getattr(rules, kind):
                    wrong = wrong or kind
        return delay, wrong, status

    def choose_region(self, regions: list[str]) -> str:
        """The first with room for a new machine. Raises Refused in one of Fly's ways, which take turns."""
        for region in regions:
            if region not in self.rules.no_capacity:
                return region
        raise Refused(*next(self._no_room))

    def check_room(self, region: str) -> None:
        """Raises Refused if a stopped machine finds no room to start."""
        if region in self.rules.no_capacity:
            raise Refused(409, MEMORY)

    def sticks(self, state: str) -> bool:
        """Whether machines that reach a state stay in it."""
        return state in self.rules.stuck
