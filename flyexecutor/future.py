"""Level 4: FlyFuture, a client's handle on a call.

Owns nothing but its own state. The watcher resolves it; `cancel` and `state` go through the callbacks that the client
gives it. Never unpickles.
"""

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED
from typing import Any, TypeVar

from flyexecutor.call import Outcome, Standing
from flyexecutor.errors import CallForgottenError
from flyexecutor.states import State

T = TypeVar("T")


class FlyFuture(Future[T]):
    """A `concurrent.futures.Future` whose call runs on a machine. Made by an executor, never by its user.

    `id` names the call for ever: keep it, and `executor.future(id)` attaches to the call from any process.
    """

    def __init__(
        self,
        call_id: str,
        take_back: Callable[[str], bool],
        standing: Callable[[str], Standing | None],
        *,
        keep: bool,
        attached: bool,
    ) -> None:
        super().__init__()
        self.id = call_id
        self.keep = keep  # False: nobody will ask for the outcome again
        self.attached = attached  # made by executor.future(id), not by submit
        self._take_back = take_back
        self._standing = standing
        self._outcome: Outcome | None = None

    def state(self) -> State:
        """Where the call stands. One round trip to Redis while it has not ended; none afterwards.

        Raises RedisUnavailableError, and CallForgottenError if Redis does not know the call.
        """
        return self._ask().state

    @property
    def machine_id(self) -> str:
        """The machine that runs or ran the call; empty if none has."""
        return self._ask().machine_id

    @property
    def attempt(self) -> int:
        """How many times the call was begun."""
        return self._ask().attempt

    def running(self) -> bool:
        """Whether a worker runs the call now."""
        return not self.done() and self.state() is State.RUNNING

    def cancel(self) -> bool:
        """Take the call back. True only if no worker had claimed it; answers within a fraction of a second."""
        if self.done():
            return self.cancelled()
        if not self._take_back(self.id):
            return False
        self.end_cancelled()
        return True

    def _ask(self) -> Standing:
        if self._outcome:
            return Standing(self._outcome.state, self._outcome.attempt, self._outcome.machine_id)
        if self.done():  # without a machine's help: it was never sent, or was taken back
            return Standing(State.CANCELLED if self.cancelled() else State.FAILED, 0, "")
        standing = self._standing(self.id)
        if standing is None:
            raise CallForgottenError(f"Redis does not know the call {self.id} any more: it was emptied, or evicts keys")
        return standing

    # For the watcher

    def end(self, outcome: Outcome, value: Any, exception: BaseException | None) -> None:
        """Resolve the future with what its call came to."""
        self._outcome = outcome
        if exception is None:
            self.set_result(value)
        else:
            self.set_exception(exception)

    def end_cancelled(self) -> None:
        """Resolve the future as cancelled; any number of threads may."""
        super().cancel()
        with self._condition:
            # Both the caller of cancel() and the watcher come here; the second step is allowed once.
            if self._state == CANCELLED:
                self.set_running_or_notify_cancel()
