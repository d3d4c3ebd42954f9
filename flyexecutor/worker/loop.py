"""Steps 6 and 8: the worker's loop: join, claim, finish, leave.

One thread that waits for four things at once: answers of runners, calls from the queue, signals and time. It owns every
call that its machine has claimed until Redis has its outcome. Killed: the calls stay claimed in Redis, and are queued
again when the machine restarts and joins, or when a fleet buries it. SIGTERM or SIGINT: it takes nothing new, waits for
what runs, hands back the rest and leaves. Never unpickles; that is the runners' business.
"""

import logging
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable

from flyexecutor import plain
from flyexecutor.call import ClaimedCall, Outcome
from flyexecutor.errors import RedisUnavailableError, WorkerCrashedError
from flyexecutor.reader import BLOCK_LIMIT
from flyexecutor.states import State
from flyexecutor.store import BATCH_BYTES, Store
from flyexecutor.trust import Encoding, Trust
from flyexecutor.worker.pipe import RETURNED, Answered
from flyexecutor.worker.runners import Runner

AHEAD_SECONDS = 0.02  # of work that a runner is given at once, by the duration of recent calls
AHEAD_CALLS = 128
TAKE_BACK_AFTER = 0.05  # seconds that calls wait behind another before somebody else may have them
DRAIN_SECONDS = 25.0  # for calls that run when the machine is stopped; below the stop_config of our machines
OUTAGE = 60.0  # seconds without Redis after which a worker with nothing to tell ends
OUTAGE_WITH_OUTCOMES = 600.0
LONGEST_PAUSE = 5.0
BAD_STARTS = 3  # runners in a row that died before their first call

log = logging.getLogger("flyexecutor.worker")


class Worker:
    """The worker of one machine."""

    def __init__(
        self,
        runners: list[Runner],
        *,
        app: str,
        machine_id: str,
        region: str,
        lane: str,
        redis_url: str,
        key: bytes,
        idle_timeout: float,
    ) -> None:
        logging.basicConfig(stream=sys.stderr, format="flyexecutor worker: %(message)s", level=logging.INFO)
        self._runners = runners
        self._machine_id = machine_id
        self._region = region
        self._lane = lane
        self._trust = Trust(key, app)
        self._store = Store(redis_url, app)
        self._reader = self._store.deliveries(lane, machine_id)
        self._idle_timeout = idle_timeout
        self._claimed: deque[ClaimedCall] = deque()  # not given to a runner yet
        self._outcomes: list[Outcome] = []  # not stored yet
        self._seconds = AHEAD_SECONDS  # that a recent call took; at first: one call at a time
        self._bad_starts = 0
        self._stopping_since: float | None = None
        self._idle_since = time.monotonic()
        # Signals arrive as bytes in a socket, so that one select sees them too (CPython: signal.set_wakeup_fd).
        self._signals, self._signals_in = socket.socketpair()
        self._signals.setblocking(False)
        self._signals_in.setblocking(False)
        signal.set_wakeup_fd(self._signals_in.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def run(self) -> int:
        """Work until there is nothing to do, or the machine is stopped. Answers the exit code."""
        try:
            self._join(first=True)
            while True:
                try:
                    if self._may_end():
                        return 0
                    self._turn()
                except RedisUnavailableError as exc:
                    log.warning("%s", exc)
                    self._reader.close()
                    self._join(first=False)
        except (RedisUnavailableError, WorkerCrashedError) as exc:
            log.error("%s", exc)
            return 1
        finally:
            self._reader.close()
            for runner in self._runners:
                runner.close()

    def _turn(self) -> None:
        """Wait for something to happen, and do what follows from it."""
        self._ask_for_calls()
        self._wait(self._patience())
        self._replace_dead_runners()
        while self._outcomes:
            self._finish()
        self._take_back_what_waits()
        self._give()

    # Wait

    def _patience(self) -> float:
        """Seconds until something must be done although nothing happens."""
        now = time.monotonic()
        if self._stopping_since is not None:
            return max(0.0, self._stopping_since + DRAIN_SECONDS - now)
        waits = [runner.answered_at for runner in self._runners if self._holds_up(runner)]
        if waits:
            return max(0.0, min(waits) + TAKE_BACK_AFTER - now)
        return max(0.0, self._idle_since + self._idle_timeout - now) if self._idle else BLOCK_LIMIT

    def _wait(self, seconds: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals, selectors.EVENT_READ)
            for runner in self._runners:
                selector.register(runner, selectors.EVENT_READ, runner)
            if self._reader.waiting:
                selector.register(self._reader, selectors.EVENT_READ, self._reader)
            ready = selector.select(seconds)
        for key, _ in ready:
            if isinstance(key.data, Runner):
                self._collect(key.data)
            elif key.data is None:
                self._notice_signals()
            elif self._reader.waiting:  # unless a signal of the same turn has closed it
                self._receive()

    def _notice_signals(self) -> None:
        numbers = self._signals.recv(4096)
        if self._stopping_since is None and {signal.SIGTERM, signal.SIGINT} & set(numbers):
            log.info("stopping: what runs is finished, what waits is handed back")
            self._stopping_since = time.monotonic()
            self._reader.close()
            for runner in self._runners:
                self._claimed.extend(runner.take_back())
            self._hand_back_claimed()

    # Claim

    def _room(self) -> int:
        """How many more calls may be claimed."""
        if self._stopping_since is not None:
            return 0
        return max(0, sum(self._ahead - len(runner.given) for runner in self._runners) - len(self._claimed))

    @property
    def _ahead(self) -> int:
        """How many calls a runner may have: one while calls are long, many while they take milliseconds."""
        return max(1, min(AHEAD_CALLS, int(AHEAD_SECONDS / max(self._seconds, 1e-6))))

    def _holds_up(self, runner: Runner) -> bool:
        """Whether calls wait behind the one that this runner runs."""
        return len(runner.given) > 1 or bool(runner.given and self._claimed)

    def _ask_for_calls(self) -> None:
        """Have Redis tell when a call comes, if a runner has nothing to do."""
        idle_runner = any(not runner.given for runner in self._runners)
        if idle_runner and not self._claimed and not self._reader.waiting and self._stopping_since is None:
            self._reader.ask(min(BLOCK_LIMIT, self._idle_timeout + 1.0))

    def _receive(self) -> None:
        delivered = self._reader.answer()
        if delivered:
            self._take(
                self._store.claim(self._lane, self._machine_id, self._region, delivered, max(0, self._room() - 1))
            )

    def _take(self, calls: Iterable[ClaimedCall]) -> None:
        self._claimed.extend(calls)
        self._give()

    def _give(self) -> None:
        """Give what is claimed to the runners with the fewest calls."""
        while self._claimed:
            runner = min(self._runners, key=lambda one: len(one.given))
            if len(runner.given) >= self._ahead or not runner.can_take(self._claimed[0]):
                return
            runner.give(self._claimed.popleft())

    def _take_back_what_waits(self) -> None:
        """Nothing that was claimed ahead waits behind a long call: another runner or machine gets it."""
        late = time.monotonic() - TAKE_BACK_AFTER
        held_up = [runner for runner in self._runners if self._holds_up(runner) and runner.answered_at <= late]
        if held_up:
            self._seconds = AHEAD_SECONDS
            for runner in held_up:
                self._claimed.extend(runner.take_back())
            self._give()
            self._hand_back_claimed()

    def _hand_back_claimed(self) -> None:
        if self._claimed:
            self._store.hand_back(self._lane, self._claimed)
            self._claimed.clear()

    # Finish

    def _collect(self, runner: Runner) -> None:
        try:
            answers = runner.answers()
        except EOFError:
            return  # its death has its own signal
        for answer in answers:
            self._seconds += (answer.seconds - self._seconds) * 0.3
            self._bad_starts = 0
            self._outcomes.append(self._outcome(answer))

    def _outcome(self, answer: Answered) -> Outcome:
        state = State.SUCCEEDED if answer.kind == RETURNED else State.FAILED
        return Outcome(answer.call_id, answer.attempt, state, self._machine_id, self._region, answer.sealed)

    def _finish(self) -> None:
        """Store what is done, and claim the next in the same trip."""
        batch = [self._outcomes[0]]
        size = len(batch[0].sealed)
        for outcome in self._outcomes[1:]:
            size += len(outcome.sealed)
            if size > BATCH_BYTES:
                break
            batch.append(outcome)
        more = 0 if self._reader.waiting else self._room()
        claimed = self._store.finish(self._lane, self._machine_id, self._region, batch, more)
        # Forgotten only now: if Redis was away they are stored later.
        del self._outcomes[: len(batch)]
        self._idle_since = time.monotonic()
        self._take(claimed)

    def _replace_dead_runners(self) -> None:
        for n, runner in enumerate(self._runners):
            if not runner.died():
                continue
            self._drain(runner)
            death = runner.describe_death()
            begun, not_begun = runner.bury()
            self._claimed.extendleft(reversed(not_begun))
            if begun:
                log.warning("call %s ended its process: %s", begun.id, death)
                self._outcomes.append(self._crashed(begun, death))
            else:
                self._bad_starts += 1
                if self._bad_starts == BAD_STARTS:
                    raise WorkerCrashedError(f"runners end before they take a call ({death}): see above")
            self._runners[n] = Runner()

    def _drain(self, runner: Runner) -> None:
        """What it had answered before it died."""
        while select_readable(runner):
            try:
                for answer in runner.answers():
                    self._outcomes.append(self._outcome(answer))
            except EOFError:
                return

    def _crashed(self, call: ClaimedCall, death: str) -> Outcome:
        error = WorkerCrashedError(f"the process that ran the call ended with {death} (machine {self._machine_id})")
        sealed = self._trust.seal_outcome(call.id, call.attempt, plain.dump(error), Encoding.TEXT)
        return Outcome(call.id, call.attempt, State.FAILED, self._machine_id, self._region, sealed)

    # Join and leave

    def _join(self, *, first: bool) -> None:
        """Join the lane, for the first time or after a broken connection; wait for Redis if it is away."""
        began = time.monotonic()
        pause = 0.1
        while True:
            held = [call.id for runner in self._runners for call in runner.given]
            held += [call.id for call in self._claimed] + [outcome.id for outcome in self._outcomes]
            try:
                self._store.join(self._lane, self._machine_id, first=first, held=held)
            except RedisUnavailableError as exc:
                patience = OUTAGE_WITH_OUTCOMES if held else OUTAGE
                if (
                    (exc.permanent and not held)
                    or time.monotonic() - began > patience
                    or self._stopping_since is not None
                ):
                    raise
                log.warning("trying again in %.1f s: %s", pause, exc)
                self._wait(pause)
                self._replace_dead_runners()
                pause = min(LONGEST_PAUSE, pause * 2)
            else:
                return

    @property
    def _idle(self) -> bool:
        return not self._outcomes and not self._claimed and not any(runner.given for runner in self._runners)

    def _may_end(self) -> bool:
        """Leave the lane if there is nothing to do, or the machine is being stopped."""
        now = time.monotonic()
        if self._stopping_since is not None:
            if self._idle or now - self._stopping_since >= DRAIN_SECONDS:
                return self._store.leave(self._lane, self._machine_id, must=True)
            return False
        if not self._idle or now - self._idle_since < self._idle_timeout:
            return False
        self._reader.close()  # or a call could be delivered to one who has left
        left = self._store.leave(self._lane, self._machine_id, must=False)
        self._idle_since = now
        return left


def select_readable(runner: Runner) -> bool:
    """Whether something can be read from it now."""
    with selectors.DefaultSelector() as selector:
        selector.register(runner, selectors.EVENT_READ)
        return bool(selector.select(0))
