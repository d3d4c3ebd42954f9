"""Steps 6 and 8: the worker's loop: join, claim, finish, leave.

One thread that waits for several things at once: runners, calls from the queue, orders, signals and time. It owns every
call that its machine has claimed until Redis has its outcome. Killed: the calls stay claimed in Redis, and are queued
again when the machine restarts and joins, or when a fleet buries it. SIGTERM or SIGINT: it takes nothing new, waits for
what runs, hands back the rest and leaves. Never unpickles; that is the runners' business.
"""

import contextlib
import faulthandler
import functools
import logging
import select
import sys
import time
from collections.abc import Callable, Iterable

from flyexecutor.damage import tell_once
from flyexecutor.environment import Idle
from flyexecutor.errors import PayloadError, RedisUnavailableError, WorkerCrashedError
from flyexecutor.payload.trust import Trust
from flyexecutor.store import outage
from flyexecutor.store.calls import Store
from flyexecutor.store.reader import BLOCK_LIMIT, BUSY_BLOCK
from flyexecutor.worker.crew import Crew, Interrupted
from flyexecutor.worker.exchange import Exchange
from flyexecutor.worker.guard import Guard
from flyexecutor.worker.life import Life, Stage
from flyexecutor.worker.membership import Membership
from flyexecutor.worker.pipe import Message
from flyexecutor.worker.reports import Reports
from flyexecutor.worker.runner_process import Answer, RunnerProcess
from flyexecutor.worker.scheduled import submit_scheduled
from flyexecutor.worker.signals import Signals

OUTAGE = 60.0  # seconds without Redis after which a worker with nothing to tell ends
OUTAGE_WITH_OUTCOMES = 600.0
LONGEST_PAUSE = 5.0
WAKE_PATIENCE = 20.0  # seconds of being awake after a suspension was asked for; it takes up to 15 (Fly's users)
OVERTIME = 30.0  # seconds after max_lifetime, if the worker itself hangs
DAMAGE_PAUSE = 1.0  # seconds before it joins again after an answer that makes no sense

log = logging.getLogger("flyexecutor.worker")


class Worker:
    """The worker of one machine."""

    def __init__(
        self,
        runners: list[RunnerProcess],
        *,
        app: str,
        trust: Trust,
        machine_id: str,
        region: str,
        lane: str,
        redis_url: str,
        idle_timeout: float,
        max_lifetime: float,
        idle: Idle,
        warmup: bytes,
        scheduled: str,
    ) -> None:
        logging.basicConfig(stream=sys.stderr, format="flyexecutor worker: %(message)s", level=logging.INFO)
        self._app = app
        self._machine_id = machine_id
        suspends = idle is Idle.SUSPEND
        self._crew = Crew(runners, warmup=warmup if suspends else b"")
        self._life = Life(max_lifetime, suspends=suspends, now=time.monotonic())
        self._watch_over_life()
        self._store = Store(redis_url, app)
        self._guard = Guard()
        self._reports = Reports(self._store)
        concurrency = len(runners)
        self._membership = Membership(
            self._store,
            lane,
            machine_id,
            idle_timeout=idle_timeout,
            concurrency=concurrency,
            suspends=suspends,
            proof="" if idle is Idle.END else trust.vouch(lane, machine_id),
        )
        self._exchange = Exchange(
            self._store,
            trust,
            self._membership,
            lane=lane,
            machine_id=machine_id,
            region=region,
            concurrency=concurrency,
        )
        self._inbox = self._exchange.inbox
        # A call of its own, which it submits first.
        self._submit_scheduled = (
            functools.partial(submit_scheduled, scheduled, self._store, trust, lane, concurrency) if scheduled else None
        )
        self._signals = Signals()

    def run(self) -> int:
        """Work until there is nothing to do, or the machine is stopped. Answers the exit code."""
        try:
            self._join(first=True)
            if self._submit_scheduled:
                self._submit_scheduled()
            while self._life.stage is not Stage.ENDED:
                try:
                    self._live()
                except (RedisUnavailableError, PayloadError) as exc:
                    self._recover(exc)
        except (RedisUnavailableError, PayloadError, WorkerCrashedError) as exc:
            log.error("%s", exc)
            return 1
        finally:
            self._inbox.close()
            self._crew.close()
        return 0

    def _live(self) -> None:
        """What time ends has its end; else a turn."""
        now = time.monotonic()
        self._life.note_idle(self._idle)
        if self._life.retire(now):
            self._stop_taking()
        if self._life.stops and (self._idle or now >= self._life.deadline):
            self._leave_for_good()
        elif self._life.stage is Stage.IDLE and now >= self._membership.leaves_at and self._leaves():
            self._rest()
        else:
            self._turn()

    def _recover(self, exc: RedisUnavailableError | PayloadError) -> None:
        """Join again, over new connections, after one has failed or an answer made no sense."""
        if isinstance(exc, RedisUnavailableError):
            outage.note(self._store.address, exc)
        else:
            tell_once("what this worker was answered", exc)
            self._pause(DAMAGE_PAUSE)
        self._inbox.close()
        self._store.close()  # what has died of its connections has died of the others, most likely
        self._join(first=False)

    def _turn(self) -> None:
        """Wait for something to happen, and do what follows from it."""
        self._ask()
        self._wait(self._patience())
        self._inbox.give_up_if_overdue()
        self._note(self._crew.replace_dead())
        self._stop_what_must()
        self._reports.send(self._crew.runners, all_now=self._exchange.owes)
        self._exchange.send_elsewhere()
        while self._exchange.outcomes:
            self._crew.take(self._exchange.finish(self._crew.room, self._crew.free))
        self._membership.tend_due()
        late = self._crew.take_back_late()
        self._crew.make_room_for_nested()
        self._crew.give()
        if self._crew.claimed and (late or self._life.stops):  # on the signal Redis may have been away
            self._hand_back(stops=self._life.stops)

    # Wait

    def _patience(self) -> float:
        """Seconds until something must be done although nothing happens."""
        now = time.monotonic()
        due = [now + BLOCK_LIMIT, *self._guard.due(self._crew.runners)]
        due += [self._inbox.due_at] if self._inbox.waiting else self._guard.listens_at(self._crew.runners)
        due += [*self._reports.due(self._crew.runners), *self._crew.due()]
        due.append(self._life.deadline)
        if self._life.stage is Stage.IDLE:
            due.append(self._membership.leaves_at)
        if self._membership.due_at is not None:
            due.append(self._membership.due_at)
        return max(0.0, min(due) - now)

    def _wait(self, seconds: float) -> None:
        waited: dict[int, Callable[[], object]] = {self._signals.fileno(): self._notice_signals}
        if self._inbox.waiting:
            waited[self._inbox.fileno()] = self._receive
        for runner in self._crew.runners:
            waited[runner.output.fd] = runner.output.read
            if not self._reports.holds(runner):
                waited[runner.fileno()] = functools.partial(self._collect, runner)
        # poll keeps nothing between two calls: a connection that was made anew under its old number is no trap.
        poll = select.poll()
        for fd in waited:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(seconds * 1000 + 1):
            if waited[fd] != self._receive or self._inbox.waiting:  # a signal of the same turn may have closed it
                waited[fd]()

    def _pause(self, seconds: float) -> None:
        """Wait so long, or until it is to stop, and do what needs no Redis: hear answers, stop calls, begin others."""
        until = time.monotonic() + seconds
        while not self._life.stops and (now := time.monotonic()) < until:
            self._wait(max(0.0, min([until, *self._guard.due(self._crew.runners)]) - now))
            self._note(self._crew.replace_dead())
            self._stop_what_must()
            self._crew.give()

    def _notice_signals(self) -> None:
        if self._signals.take() and self._life.stop(time.monotonic()):
            self._stop_taking()

    def _stop_taking(self) -> None:
        log.info("stopping: what runs is finished, what waits is handed back")
        self._inbox.close()  # what comes by it is handed back
        self._crew.stop()
        self._hand_back(stops=True)

    # Claim

    def _ask(self) -> None:
        """Have Redis hand calls to this worker if it has room, and tell of orders if they could be for it."""
        if self._crew.free > self._exchange.to_come:
            self._crew.take(self._exchange.claim(self._crew.room, self._crew.free))
        if not self._inbox.waiting and (self._exchange.to_come or self._guard.listens(self._crew.runners)):
            self._inbox.ask(BUSY_BLOCK if self._crew.busy else BLOCK_LIMIT)

    def _receive(self) -> None:
        calls, kills = self._exchange.receive()
        self._guard.want(kills)
        self._crew.take(calls)
        if not calls and not kills and self._idle:
            # Whatever was lost on the way is queued again.
            self._membership.join(first=False, held=())
            self._exchange.joined()

    def _hand_back(self, *, stops: bool) -> None:
        self._exchange.hand_back(self._crew.claimed, stops=stops)
        self._crew.claimed.clear()

    # Stop

    def _stop_what_must(self) -> None:
        self._crew.claimed.extend(self._guard.tend(self._crew.runners))
        for call in self._guard.take_wanted(self._crew.runners, list(self._crew.claimed)):
            self._crew.claimed.remove(call)
            self._exchange.end_wanted(call)

    # Hear

    def _collect(self, runner: RunnerProcess) -> None:
        self._note(self._crew.hear(runner))

    def _note(self, news: Iterable[Answer | Message | Interrupted]) -> None:
        for message in news:
            if isinstance(message, Message):
                self._reports.add(message)
            else:
                self._exchange.end(message)

    # Join and leave

    def _join(self, *, first: bool) -> None:
        """Join the lane, for the first time or after a broken connection; wait for Redis if it is away."""
        began = time.monotonic()
        pause = 0.1
        while True:
            held = [*self._crew.held(), *self._exchange.held()]
            try:
                with outage.noticed(self._store.address):
                    self._membership.join(first=first, held=held)
                    self._exchange.joined()
            except RedisUnavailableError as exc:
                patience = OUTAGE_WITH_OUTCOMES if held else OUTAGE
                if (exc.permanent and not held) or time.monotonic() - began > patience or self._life.stops:
                    raise
                self._pause(pause)
                pause = min(LONGEST_PAUSE, pause * 2)
            else:
                self._life.join()
                return

    @property
    def _idle(self) -> bool:
        return self._crew.idle and not self._exchange.owes

    def _leave_for_good(self) -> None:
        reached = f"it still ran when its machine reached max_lifetime ({self._life.max_lifetime:g} s)"
        if self._life.stage is Stage.OLD:
            self._membership.must_leave(reached, rests=True)
        else:
            self._membership.must_leave()
        self._life.leave()

    def _leaves(self) -> bool:
        """Leave, having nothing to do; False: there is something, or the lane needs this worker."""
        if self._crew.warm_up():
            return False
        return self._exchange.leave()

    # Rest

    def _watch_over_life(self) -> None:
        """From a start or a resumption on: it ends in time, even if this program hangs."""
        # Whatever this process does then, a thread of C code ends it (CPython: faulthandler).
        faulthandler.dump_traceback_later(self._life.max_lifetime + OVERTIME, exit=True)

    def _rest(self) -> None:
        """Having left: end; or be suspended, and go on once resumed."""
        self._life.leave()
        if self._life.stage is Stage.ENDED:
            return
        from flyexecutor.worker.power import suspend  # noqa: PLC0415 - a worker that starts does not need it

        self._inbox.close()
        self._store.close()  # no connection lives through a suspension
        # Refused, too: a start that came in between is what refuses a suspension.
        patience = WAKE_PATIENCE if suspend(self._app, self._machine_id) else 0.0
        self._life.wake()
        if self._wakes(patience):
            self._life.rejoin(time.monotonic())
            self._watch_over_life()
            self._exchange.joined()  # not before: what fails from now on is mended like all else
        else:
            self._life.end()

    def _wakes(self, patience: float) -> bool:
        """Wait until somebody has started this machine: asked for is not yet suspended. False: nobody does."""
        pause, awake, answered = 0.01, 0.0, True
        while awake <= patience and not self._life.stops:
            try:
                with outage.noticed(self._store.address):
                    if self._membership.join_if_started():
                        return True
                answered = True
            except RedisUnavailableError:  # it is asked again
                answered = False
            except PayloadError as exc:
                tell_once("what this worker was answered", exc)
                answered = False
            self._pause(pause)
            awake += pause
            pause = min(1.0, pause * 2)
        if not answered:  # it may be in its lane, and is about to end
            with contextlib.suppress(RedisUnavailableError, PayloadError):
                self._membership.must_leave()
        return False
