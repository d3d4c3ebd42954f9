"""`map` and its relatives: items to calls, and outcomes back to items. No thread, no Redis.

A fan-out sends its items as calls, some items to a call if that was asked for, and holds on to them until they are
delivered: a call of several items that loses its machine, or takes too long, is sent again in halves, so that in the
end only the guilty item fails. It ends when its iterator does; what is under way then is cancelled.
"""

import functools
import itertools
import os
import queue
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from flyexecutor.arguments import MOST
from flyexecutor.call import Part
from flyexecutor.client.future import FlyFuture
from flyexecutor.client.sharing import Sharing
from flyexecutor.errors import CallTimeoutError
from flyexecutor.options import Options
from flyexecutor.payload import error_text, pickles
from flyexecutor.worker.chunks import Failed, run_chunk

# What may be the fault of one item among several. An exception that an item raised has a place of its own.
MAY_SPLIT = (BrokenExecutor, CallTimeoutError)

Item = tuple[Any, ...]


class Send(Protocol):
    """How a fan-out submits a call: what an executor gives it."""

    def __call__(
        self, fn: Callable[..., Any], args: Sequence[Any], options: Options, parts: Sequence[Part]
    ) -> FlyFuture[Any]: ...


@dataclass(frozen=True, slots=True)
class Sizes:
    """The arguments of `map`, checked."""

    chunksize: int
    buffersize: int | None
    deadline: float | None  # monotonic seconds

    @classmethod
    def read(cls, chunksize: int, buffersize: int | None, timeout: float | None) -> "Sizes":
        """Raises TypeError and ValueError, worded as in CPython."""
        if not isinstance(chunksize, int):
            raise TypeError(f"chunksize must be an integer, not {chunksize!r}")
        if chunksize < 1:
            raise ValueError(f"chunksize must be >= 1, not {chunksize!r}")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError(f"buffersize must be an integer or None, not {buffersize!r}")
        if buffersize is not None and buffersize < 1:
            raise ValueError(f"buffersize must be None or > 0, not {buffersize!r}")
        if timeout is not None and not isinstance(timeout, int | float):
            raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
        if timeout is not None and not -MOST <= timeout <= MOST:
            raise ValueError(f"timeout must be a finite number of seconds or None, not {timeout!r}")
        return cls(chunksize, buffersize, None if timeout is None else time.monotonic() + timeout)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Items that travel as one call."""

    items: Sequence[Item]
    future: FlyFuture[Any]
    first: int  # which item of all the first one is: 0, 1, ...


class FanOut:
    """The calls of one `map`, from the first item to the last that is delivered."""

    def __init__(
        self,
        items: Iterator[Item],
        sharing: Sharing,
        sizes: Sizes,
        options: Options,
        send: Send,
        cancel: Callable[[Iterable[FlyFuture[Any]]], None],
        *,
        return_exceptions: bool,
    ) -> None:
        self._sharing = sharing
        self._sizes = sizes
        self._options = options
        self._send = send
        self._cancel = cancel
        self._return_exceptions = return_exceptions
        self._process = os.getpid()
        self._chunks = iter(lambda: tuple(itertools.islice(items, sizes.chunksize)), ())
        self._drawn = 0  # items
        self._open: dict[FlyFuture[Any], None] = {}
        self._sent: deque[Chunk] = deque()
        # An iterator that nobody ever begins runs no `finally`.
        weakref.finalize(self, sharing.close).atexit = False
        # Here, not at the first next(): a map that nobody iterates runs as well.
        self._draw(sizes.buffersize)

    def ordered(self) -> Iterator[Any]:
        """What the items came to, in their order."""
        try:
            while self._sent:
                settled = self._settle(self._sent[0])
                self._sent.popleft()
                self._draw(1)
                yield from self._deliver(settled)
        finally:
            self._end()

    def unordered(self) -> Iterator[Any]:
        """What the items came to, as they end."""
        ended: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
        left = 0
        try:
            while True:
                while self._sent:
                    chunk = self._sent.popleft()
                    left += 1
                    chunk.future.add_done_callback(functools.partial(_put, ended, chunk))
                if not left:
                    return
                try:
                    chunk = ended.get(timeout=self._patience())
                except queue.Empty:
                    raise TimeoutError from None
                left -= 1
                settled = self._settle(chunk)
                self._draw(1)
                yield from self._deliver(settled)
        finally:
            self._end()

    def _deliver(self, settled: list[pickles.Result]) -> Iterator[Any]:
        settled.reverse()
        while settled:
            # Taken out of the list as it is delivered: what a caller has dropped is not held here.
            exception = settled[-1].exception
            if exception is None:
                yield settled.pop().value
            elif self._return_exceptions:
                del exception
                yield settled.pop().exception
            else:
                try:
                    raise exception
                finally:  # or exception and frame would hold each other
                    settled.clear()
                    del exception

    def _draw(self, most: int | None) -> None:
        for items in itertools.islice(self._chunks, most):
            self._sent.append(self._send_chunk(items, self._options, self._drawn))
            self._drawn += len(items)

    def _send_chunk(self, items: Sequence[Item], options: Options, first: int) -> Chunk:
        prepared = tuple(self._sharing.prepare(item) for item in items)
        parts = self._sharing.take_named()
        if len(items) == 1:
            future = self._send(self._sharing.fn, prepared[0], options, parts)
        else:
            timeout = options.timeout and options.timeout * len(items)
            chunk_options = replace(options, timeout=timeout, retry=replace(options.retry, attempts=1))
            args = (self._sharing.fn, prepared, options.retry, self._return_exceptions)
            future = self._send(run_chunk, args, chunk_options, parts)
        self._open[future] = None
        if parts:
            sharing = self._sharing
            future.add_done_callback(lambda _: sharing.ended(parts))
        return Chunk(items, future, first)

    def _settle(self, chunk: Chunk) -> list[pickles.Result]:
        """Wait until a call has ended. Raises TimeoutError at the deadline."""
        exception = chunk.future.exception(self._patience())
        self._open.pop(chunk.future, None)
        if exception is None:
            return [pickles.Result(chunk.future.result())] if len(chunk.items) == 1 else self._unpack(chunk)
        retry = self._options.retry
        if len(chunk.items) > 1 and isinstance(exception, MAY_SPLIT) and (retry.lost or retry.attempts > 1):
            half = len(chunk.items) // 2
            halves = [
                self._send_chunk(chunk.items[:half], self._options, chunk.first),
                self._send_chunk(chunk.items[half:], self._options, chunk.first + half),
            ]
            return [settled for half in halves for settled in self._settle(half)]
        return [_failed(exception, chunk.first, len(chunk.items))] * len(chunk.items)

    def _unpack(self, chunk: Chunk) -> list[pickles.Result]:
        settled: list[pickles.Result | Chunk] = []
        for number, (item, value) in enumerate(
            zip(chunk.items, chunk.future.result(), strict=False), start=chunk.first
        ):
            if not isinstance(value, Failed):
                settled.append(pickles.Result(value))
            elif value.again:
                retry = replace(self._options.retry, attempts=self._options.retry.attempts - 1)
                settled.append(self._send_chunk([item], replace(self._options, retry=retry), number))
            else:
                result = pickles.load_outcome(value.dumped.encoding, memoryview(value.dumped.body))
                assert result.exception is not None
                settled.append(_failed(chunk.future.note_origin(result.exception), number))
        return [result for item in settled for result in (self._settle(item) if isinstance(item, Chunk) else [item])]

    def _patience(self) -> float | None:
        return None if self._sizes.deadline is None else max(0.0, self._sizes.deadline - time.monotonic())

    def _end(self) -> None:
        if os.getpid() != self._process:
            return  # a fork has a copy of the iterator; the calls are still its parent's
        self._cancel(list(self._open))
        self._sharing.close()


def _failed(exception: BaseException, number: int, of_items: int = 1) -> pickles.Result:
    items = f"item {number}" if of_items == 1 else f"items {number} to {number + of_items - 1}, which were one call,"
    error_text.add_note(exception, f"{items} of the map (the first is item 0)")
    return pickles.Result(exception=exception)


def _put(ended: "queue.SimpleQueue[Chunk]", chunk: Chunk, _future: object) -> None:
    ended.put(chunk)
