"""A batch, a whole fan-out with one id, to which any process can attach."""

import concurrent.futures
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from flyexecutor.client.future import FlyFuture
from flyexecutor.errors import ExpiredCallError
from flyexecutor.names import label
from flyexecutor.states import State

T = TypeVar("T")

EXPIRED = "EXPIRED"  # counted beside the states: its outcome is no longer kept


class Batch(Generic[T]):
    """The calls of one `submit_batch`, in order. `id` names it for ever: `executor.batch(id)` attaches to it.

    The id tells how many they are, and gives theirs: Redis can lose them, and add none.
    """

    def __init__(
        self,
        batch_id: str,
        futures: Sequence[FlyFuture[T]],
        standing: Callable[[str], Sequence[tuple[str, State | None]]],
    ) -> None:
        self.id = batch_id
        self.futures = futures
        self._standing = standing

    def __repr__(self) -> str:
        name = self.futures[0].name if self.futures else ""
        return f"<Batch {label(self.id, name)} of {len(self)} calls>"

    def __len__(self) -> int:
        return len(self.futures)

    def counts(self) -> Counter[str]:
        """How many calls are in which state, and how many EXPIRED. One round trip; raises RedisUnavailableError."""
        stored = dict(self._standing(self.id))
        return Counter(_state_of(future, stored.get(future.id)) for future in self.futures)

    def results(self, timeout: float | None = None) -> Iterator[T]:
        """The results in order; raises the exception of a call in its place.

        timeout: seconds that each may take to come, else TimeoutError.
        """
        for future in self.futures:
            yield future.result(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all calls have ended; False if some have not after `timeout` seconds."""
        return not concurrent.futures.wait(self.futures, timeout).not_done

    def cancel(self) -> None:
        """Take back what no worker has claimed."""
        for future in self.futures:
            future.cancel()


def _state_of(future: FlyFuture[Any], stored: State | None) -> str:
    """As its outcome says, if that is here, else as Redis does."""
    if future.done() and not future.ended_unsent():
        return str(future.state()) if stored else EXPIRED
    if stored:
        return str(stored)
    # It never got there, is on its way, or ended so long ago.
    if not future.done():
        return str(State.QUEUED)
    if future.cancelled():
        return str(State.CANCELLED)
    return EXPIRED if isinstance(future.exception(), ExpiredCallError) else str(State.FAILED)
