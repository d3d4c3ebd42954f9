"""Who gets which call: the runners of a worker, and the calls that it has claimed and none of them has yet.

Owns the runner processes: puts others in the place of those that died, and further ones beside those whose call waits
for calls of its own. No thread and no store: the loop asks it after whatever happens, and hands back what it can't use.
Killed: the runners read end-of-file and go, and what they had is queued again as all that this machine had claimed.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flyexecutor.call import ClaimedCall
from flyexecutor.errors import WorkerCrashedError
from flyexecutor.worker.pipe import Message
from flyexecutor.worker.runner_process import Answer, Death, RunnerProcess

AHEAD_SECONDS = 0.02  # of work that a runner is given at once, by the duration of recent calls
AHEAD_CALLS = 128
TAKE_BACK_AFTER = 0.05  # seconds that calls wait behind another before somebody else may have them
BAD_STARTS = 3  # runners in a row that died before their first call, or for which no process could be had
START_PAUSE = 1.0  # seconds between two of the latter

log = logging.getLogger("flyexecutor.worker")


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A call that had begun when its runner died."""

    call: ClaimedCall
    death: Death


class Crew:
    """The runners of one worker."""

    def __init__(self, runners: list[RunnerProcess], *, warmup: bytes = b"") -> None:
        self.runners = runners
        self.concurrency = len(runners)
        self.claimed: deque[ClaimedCall] = deque()  # not given to a runner yet
        self._seconds = AHEAD_SECONDS  # that a recent call took; at first: one call at a time
        self._bad_starts = 0
        self._start_from = 0.0  # not before
        self._stops = False
        self._warmup = warmup  # sealed; what they do before the machine is first suspended

    # What it has to do

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do."""
        return not self.claimed and not any(runner.given or runner.warming for runner in self.runners)

    @property
    def busy(self) -> bool:
        """Whether a call runs."""
        return any(runner.given for runner in self.runners)

    @property
    def free(self) -> int:
        """How many more calls would begin at once."""
        free = sum(not runner.given and runner.takes_calls for runner in self.runners)
        return 0 if self._stops else min(self.concurrency, max(0, free - len(self.claimed)))

    @property
    def room(self) -> int:
        """How many more calls may be claimed."""
        if self._stops:
            return 0
        takers = [runner for runner in self.runners if runner.takes_calls]
        return max(0, sum(self._ahead - len(runner.given) for runner in takers) - len(self.claimed))

    def held(self) -> Iterator[str]:
        """The ids of all calls that it has."""
        for runner in self.runners:
            for call in runner.given:
                yield call.id
        for call in self.claimed:
            yield call.id

    def due(self) -> Iterator[float]:
        """When to `take_back_late`, or to start a runner that is missing, whatever happens (monotonic seconds)."""
        yield from (runner.answered_at + TAKE_BACK_AFTER for runner in self.runners if self._holds_up(runner))
        if len(self.runners) < self.concurrency and not self._stops:
            yield self._start_from

    @property
    def _ahead(self) -> int:
        """How many calls a runner may have: one while calls are long, many while they take milliseconds."""
        return max(1, min(AHEAD_CALLS, int(AHEAD_SECONDS / max(self._seconds, 1e-6))))

    def _holds_up(self, runner: RunnerProcess) -> bool:
        """Whether calls wait behind the one that this runner runs."""
        return len(runner.given) > 1 or bool(runner.given and self.claimed)

    # Give and take back

    def take(self, calls: Iterable[ClaimedCall]) -> None:
        """These were claimed."""
        self.claimed.extend(calls)
        self.give()

    def give(self) -> None:
        """Give what is claimed to the runners with the fewest calls."""
        while self.claimed and not self._stops:
            takers = [runner for runner in self.runners if runner.takes_calls]
            runner = min(takers, key=lambda taker: len(taker.given), default=None)
            if runner is None or len(runner.given) >= self._ahead or not runner.can_take(self.claimed[0]):
                return
            runner.give(self.claimed.popleft())

    def take_back_late(self) -> bool:
        """Nothing that was claimed ahead waits behind a long call. True: another runner or machine must get it."""
        late = time.monotonic() - TAKE_BACK_AFTER
        held_up = [runner for runner in self.runners if self._holds_up(runner) and runner.answered_at <= late]
        if held_up:
            self._seconds = AHEAD_SECONDS
            self._take_back(held_up)
        return bool(held_up)

    def stop(self) -> None:
        """Take back all calls that have not begun: from now on none is wanted, given or made room for."""
        self._stops = True
        self._take_back(self.runners)

    def _take_back(self, runners: Iterable[RunnerProcess]) -> None:
        for runner in runners:
            self.claimed.extend(runner.take_back())

    # Hear

    def hear(self, runner: RunnerProcess) -> list[Answer | Message]:
        """What this runner says."""
        try:
            news = runner.hear()
        except EOFError:
            runner.end_if_cut_off()
            return []  # its death has its own signal
        self._learn(news)
        if runner.spoiled:  # behind what it has answered
            runner.end_if_cut_off()
        return news

    def replace_dead(self) -> list[Answer | Message | Interrupted]:
        """Start others for runners that have died. Answers what those had said before that, and which calls they ran.

        Raises WorkerCrashedError if runners die as soon as they are started.
        """
        news: list[Answer | Message | Interrupted] = []
        for runner in list(self.runners):
            if not runner.died():
                continue
            n = self.runners.index(runner)
            del self.runners[n]  # or it would be closed twice if something raises here
            last = runner.hear_rest()
            self._learn(last)
            news += last
            death, answered = runner.death(), runner.answered
            begun, not_begun = runner.bury()
            self.claimed.extendleft(reversed(not_begun))
            if begun:
                news.append(Interrupted(begun, death))
            elif not answered:
                self._note_bad_start(f"runners end before they take a call ({death})")
            if another := self._start_runner():
                self.runners.insert(n, another)
        return news

    def _start_runner(self) -> RunnerProcess | None:
        """A further runner; None if no process can be had now: later one is, or this worker ends."""
        now = time.monotonic()
        if now < self._start_from:
            return None
        try:
            return RunnerProcess()
        except OSError as exc:
            self._start_from = now + START_PAUSE
            log.warning("no runner could be started, trying again: %s", exc)
            if len(self.runners) < self.concurrency:  # else calls run, and one that waits for others waits longer
                self._note_bad_start(f"no runner can be started ({exc})")
            return None

    def _note_bad_start(self, why: str) -> None:
        self._bad_starts += 1
        if self._bad_starts == BAD_STARTS:
            raise WorkerCrashedError(f"{why}: see above")

    def _learn(self, news: Iterable[Answer | Message]) -> None:
        """From answers: how long calls take, and that a runner lives to give one."""
        for message in news:
            if isinstance(message, Answer):
                self._seconds += (message.message.seconds - self._seconds) * 0.3
                self._bad_starts = 0

    # How many

    def make_room_for_nested(self) -> None:
        """A call that waits for calls which it has submitted must not take their place: a further runner has it. And
        those that could not be started before are.
        """
        wanted = self.concurrency + sum(1 for runner in self.runners if runner.nested)
        while len(self.runners) < wanted and not self._stops and (another := self._start_runner()):
            self.runners.append(another)
        spare = max(0, len(self.runners) - wanted)
        for runner in [runner for runner in self.runners if not runner.given and not runner.nested][:spare]:
            self.runners.remove(runner)
            runner.close()

    def warm_up(self) -> bool:
        """Have all runners run `warmup`. False: there is none, or they have."""
        warmup, self._warmup = self._warmup, b""
        if warmup:
            for runner in self.runners:
                runner.warm_up(warmup)
        return bool(warmup)

    def close(self) -> None:
        """End the runners."""
        for runner in self.runners:
            runner.close()
