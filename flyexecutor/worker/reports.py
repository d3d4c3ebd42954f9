"""What running calls say before they end, on its way to Redis: progress, items of generators, output so far. No thread.

Items go at once and in order; the others as the newest value, twice a second at most. When a client does not take the
items that were sent, the runner that makes them is not read for a while, so that its call waits.
"""

import time
from collections.abc import Iterable

from flyexecutor.call import Report
from flyexecutor.store.calls import BUNDLE_BYTES, Store
from flyexecutor.worker.pipe import ITEM, Message
from flyexecutor.worker.runner_process import RunnerProcess

EVERY = 0.5  # seconds
LOGS_AFTER = 1.0  # seconds that a call runs before its output is shown: that of a short call comes with its outcome
BACKLOG = 2000  # entries that a client has not read
HOLD = 0.5  # seconds after which it is looked at again


class Reports:
    """What is to be told."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._items: list[Report] = []
        self._progress: dict[str, Report] = {}
        self._next = 0.0  # when the newest values may be told
        self._held_until = 0.0
        self._makers: set[str] = set()  # calls whose items are held

    def add(self, message: Message) -> None:
        """Take what a runner tells."""
        if message.kind == ITEM:
            self._items.append(Report(message.call_id, message.attempt, Report.ITEM, message.number, message.body))
            self._makers.add(message.call_id)
        else:
            self._progress[message.call_id] = Report(message.call_id, message.attempt, Report.PROGRESS, 0, message.body)

    def holds(self, runner: RunnerProcess) -> bool:
        """Whether this runner makes items that nobody takes: it is not read, until it waits."""
        return time.monotonic() < self._held_until and bool(runner.given) and runner.given[0].id in self._makers

    def due(self, runners: Iterable[RunnerProcess]) -> Iterable[float]:
        """When something must be told although nothing happens (monotonic seconds)."""
        if self._items or time.monotonic() < self._held_until:
            yield self._held_until
        if self._progress:
            yield self._next
        for runner in runners:
            if runner.output.news and runner.given:
                yield max(self._next, runner.answered_at + LOGS_AFTER)

    def send(self, runners: Iterable[RunnerProcess], *, all_now: bool = False) -> None:
        """Tell what is due; all_now: an outcome follows, which must not overtake them."""
        now = time.monotonic()
        while self._items and (all_now or now >= self._held_until):
            bundle: list[Report] = []
            size = 0
            for item in self._items:
                size += len(item.body)
                if bundle and size > BUNDLE_BYTES:
                    break
                bundle.append(item)
            if self._store.report(bundle) > BACKLOG:
                self._held_until = now + HOLD
            else:
                self._makers.clear()
            del self._items[: len(bundle)]  # only now: Redis has them
        if all_now or now >= self._next:
            newest = [*self._progress.values(), *(_logs(runners, now) if now >= self._next else ())]
            if newest:
                self._store.report(newest)
                self._next = now + EVERY
            self._progress.clear()


def _logs(runners: Iterable[RunnerProcess], now: float) -> Iterable[Report]:
    for runner in runners:
        if runner.output.news and runner.given and now - runner.answered_at >= LOGS_AFTER:
            call = runner.given[0]
            yield Report(call.id, call.attempt, Report.LOGS, 0, runner.output.kept())
