"""A stand-in for the executor, so that these tests are about the page: the real one is driven in tests/e2e."""

from concurrent.futures import Future
from itertools import count
from typing import Any

from flyexecutor import ExpiredCallError, FlyExecutorError, MachineStartError, RedisUnavailableError, State


class FakeFuture(Future[str]):
    """A future whose course the test decides."""

    def __init__(self, call_id: str) -> None:
        super().__init__()
        self.id = call_id
        self._now = State.QUEUED
        self.trouble: FlyExecutorError | None = None
        self.uncancellable = False

    def state(self) -> State:
        if self.trouble:
            raise self.trouble
        return State.CANCELLED if self.cancelled() else self._now

    def cancel(self) -> bool:
        return not self.uncancellable and super().cancel()

    def begin(self) -> None:
        self._now = State.RUNNING
        self.set_running_or_notify_cancel()

    def succeed(self, value: str) -> None:
        self._now = State.SUCCEEDED
        self.set_result(value)

    def fail(self, reason: BaseException, state: State = State.FAILED) -> None:
        self._now = state
        self.set_exception(reason)


class FakeExecutor:
    """Keeps what was submitted. `away` makes it behave as when Redis can't be reached."""

    def __init__(self) -> None:
        self.futures: dict[str, FakeFuture] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.away = False
        self.without_machines = False
        self.forgotten: set[str] = set()
        self.uncancellable = False
        self.attached = 0
        self._ids = (f"call-{number:027d}" for number in count())

    def submit(self, fn: Any, /, *args: Any) -> FakeFuture:
        self.calls.append((fn, *args))
        future = FakeFuture(next(self._ids))
        future.uncancellable = self.uncancellable
        self.futures[future.id] = future
        return future

    def flush(self, *, timeout: float) -> None:
        if self.away:
            raise RedisUnavailableError("Redis can't be reached")
        if self.without_machines:
            raise MachineStartError("the calls are stored, but no machine")

    def future(self, call_id: str) -> FakeFuture:
        self.attached += 1
        if self.away:
            raise RedisUnavailableError("Redis can't be reached")
        if call_id in self.forgotten:
            raise ExpiredCallError(call_id)
        return self.futures[call_id]
