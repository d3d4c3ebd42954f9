"""The life of a worker: its stages, every transition between them, and when time ends one. No thread, no clock.

The loop says what has happened, and asks what may be done now. A transition that the table lacks is refused and changes
nothing. That a worker is idle is said by its loop; all else follows from the stage.
"""

from enum import StrEnum

DRAIN_SECONDS = 25.0  # for calls that run when the machine is stopped; below the stop_config of our machines


class Stage(StrEnum):
    """Where a worker stands in its life."""

    STARTING = "starting"  # has not joined its lane yet
    JOINED = "joined"  # in its lane, with something to do
    IDLE = "idle"  # in its lane, with nothing to do: it may leave
    DRAINING = "draining"  # to be stopped: takes nothing new, ends with what runs
    OLD = "old"  # the same, since its machine is about to reach max_lifetime
    RESTING = "resting"  # has left its lane, to be suspended
    WAKING = "waking"  # awake again, or still: waits until somebody has started its machine
    ENDED = "ended"


NEXT: dict[Stage, frozenset[Stage]] = {
    Stage.STARTING: frozenset({Stage.JOINED, Stage.DRAINING}),
    Stage.JOINED: frozenset({Stage.IDLE, Stage.DRAINING, Stage.OLD}),
    Stage.IDLE: frozenset({Stage.JOINED, Stage.DRAINING, Stage.OLD, Stage.RESTING, Stage.ENDED}),
    Stage.DRAINING: frozenset({Stage.ENDED}),
    Stage.OLD: frozenset({Stage.ENDED}),
    Stage.RESTING: frozenset({Stage.WAKING}),
    # ENDED: nobody has started its machine, so that it was never suspended, or is not wanted
    Stage.WAKING: frozenset({Stage.JOINED, Stage.DRAINING, Stage.ENDED}),
}


class Life:
    """One worker's life, from a start or a resumption on. Times are monotonic seconds."""

    def __init__(self, max_lifetime: float, *, suspends: bool, now: float) -> None:
        self.stage = Stage.STARTING
        self.max_lifetime = max_lifetime
        self._suspends = suspends
        self._drain_when_old = min(DRAIN_SECONDS, max_lifetime / 2)
        self._stop_at = 0.0  # when it ends whatever still runs, once it stops
        self._begin(now)

    @property
    def stops(self) -> bool:
        """Whether it takes nothing new any more."""
        return self.stage in {Stage.DRAINING, Stage.OLD}

    @property
    def deadline(self) -> float:
        """When time ends this stage."""
        return self._stop_at if self.stops else self._retires_at

    def join(self) -> None:
        """It is in its lane; after a broken connection nothing changes by that."""
        if self.stage in {Stage.STARTING, Stage.WAKING}:
            self._enter(Stage.JOINED)

    def note_idle(self, idle: bool) -> None:
        """Whether it has nothing to do."""
        stage = Stage.IDLE if idle else Stage.JOINED
        if self.stage is not stage and self.stage in {Stage.JOINED, Stage.IDLE}:
            self._enter(stage)

    def stop(self, now: float) -> bool:
        """It shall stop. False: it does already."""
        if self.stops:
            return False
        self._enter(Stage.DRAINING)
        self._stop_at = now + DRAIN_SECONDS
        return True

    def retire(self, now: float) -> bool:
        """True: it is old, from now on, and has to stop."""
        if self.stage not in {Stage.JOINED, Stage.IDLE} or now < self._retires_at:
            return False
        self._enter(Stage.OLD)
        self._stop_at = now + self._drain_when_old
        return True

    def leave(self) -> None:
        """It has left its lane."""
        self._enter(Stage.RESTING if self._suspends and not self.stops else Stage.ENDED)

    def wake(self) -> None:
        """It was suspended and has been resumed, or is about to be suspended, or was refused that."""
        self._enter(Stage.WAKING)

    def rejoin(self, now: float) -> None:
        """Somebody has started its machine, and it is in its lane again."""
        self._enter(Stage.JOINED)
        self._begin(now)

    def end(self) -> None:
        """Nobody has started its machine, or it stops."""
        self._enter(Stage.ENDED)

    def _begin(self, now: float) -> None:
        self._retires_at = now + self.max_lifetime - self._drain_when_old

    def _enter(self, stage: Stage) -> None:
        if stage not in NEXT.get(self.stage, ()):
            raise RuntimeError(f"a worker that is {self.stage} can't be {stage} next: a bug in flyexecutor")
        self.stage = stage
