"""The items of a generator that runs on a machine, as they come.

The watcher's thread puts sealed items into a queue; whoever iterates verifies and unpickles them. If the call runs
again because its machine was lost, its generator begins anew: items that were delivered already are passed over.
"""

import queue
from collections.abc import Iterator
from typing import Any, Generic, Self, TypeVar

from flyexecutor.client.future import FlyFuture
from flyexecutor.errors import ExpiredCallError, FlyExecutorError
from flyexecutor.names import label
from flyexecutor.payload import pickles
from flyexecutor.payload.trust import Trust

T = TypeVar("T")


class ItemStream(Iterator[T], Generic[T]):
    """An iterator over what a generator yields on a machine. `future` is the handle on its call.

    Items wait in memory until they are taken. An exception of the generator is raised after the items before it.
    """

    future: FlyFuture[Any]  # set by the executor, once the call is sent

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._arrived: queue.SimpleQueue[tuple[int, int, bytes] | None] = queue.SimpleQueue()
        self._delivered = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        while (item := self._arrived.get()) is not None:
            attempt, number, sealed = item
            if number == self._delivered:
                if not sealed:
                    called = label(self.future.id, self.future.name)
                    raise ExpiredCallError(f"item {number} of the call {called} has expired (result_ttl)")
                opened = self._trust.open_item(self.future.id, attempt, number, sealed)
                self._delivered += 1
                value: T = pickles.load_value(opened.encoding, opened.body)
                return value
        self._arrived.put(None)  # for whoever asks again
        made = self.future.result()
        if made > self._delivered:
            raise FlyExecutorError(
                f"{made} items were made and {self._delivered} have come: Redis was emptied meanwhile"
            )
        raise StopIteration

    def take(self, attempt: int, number: int, sealed: bytes) -> None:
        """For the watcher: an item has come."""
        self._arrived.put((attempt, number, sealed))

    def end(self, _future: object) -> None:
        """For the future: no further item will come."""
        self._arrived.put(None)

    def close(self) -> None:
        """Want no more: the call is cancelled, or killed if it runs. Does not wait for its end."""
        if not self.future.cancel():
            self.future.order_kill()
