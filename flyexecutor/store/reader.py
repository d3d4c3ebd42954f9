"""Blocking reads in two halves.

A worker waits for calls, runners and signals at once, and a watcher must be woken when it is closed: so each has a
connection of its own, sends its read, and receives the answer when it likes. Owns that connection and no thread.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from flyexecutor.call import Outcome, Report
from flyexecutor.damage import tell_once, word
from flyexecutor.errors import PayloadError
from flyexecutor.secrecy import Address
from flyexecutor.store.connection import CONNECT_TIMEOUT, is_damage, translate, unavailable

BLOCK_LIMIT = 20.0  # seconds; a longer silence may be a dead connection: ask again
BUSY_BLOCK = 5.0  # seconds, while a call runs: what waits for this worker then must not wait for long
LATE = 3.0  # seconds that an answer may be late; the connection is dead then, even if nobody says so (a NAT forgot it)
OUTCOMES_PER_READ = 200
_LAST_ID = b"18446744073709551615-18446744073709551615"  # of an entry: nothing can be put behind it

_CLOSED = (OSError, ValueError, AttributeError)  # what redis-py raises when close() has taken its socket from under it


@dataclass(frozen=True, slots=True)
class Delivered:
    """A queue entry that a blocking read has given to this machine; it is not claimed yet."""

    entry: bytes
    call_id: bytes


class BlockingReader:
    """A blocking read on a connection of its own, in two halves, so that its owner can wait for other things too.

    `ask` sends, `answer` receives; in between `fileno` becomes readable. `close` may be called by another thread and
    ends a wait in `answer`, with RedisUnavailableError. No wait is longer than what was asked for, and LATE. What is in
    the place of the stream, and is none, goes.
    """

    def __init__(
        self, client: "redis.Redis", address: Address, stream: str, commands: Callable[[int], Sequence[Sequence[Any]]]
    ) -> None:
        self._client = client
        self._stream = stream
        self._address = address
        self._commands = commands  # to send, by the milliseconds that the last of them may block
        # Any: redis-py types its clients, hardly its connections.
        self._connection = cast("Any", client.connection_pool.make_connection())
        self._connection.socket_timeout = CONNECT_TIMEOUT  # for what redis-py asks when it connects
        self._asked = 0
        self.due_at = 0.0  # when an answer that is owed must have come (monotonic seconds)

    def fileno(self) -> int:
        """The socket, for `selectors`."""
        # redis-py has no public name for it; its own event loops use the same attribute.
        return int(self._connection._sock.fileno())

    @property
    def waiting(self) -> bool:
        """Whether an answer is owed."""
        return self._asked > 0

    def ask(self, block: float) -> None:
        """Send the read; the server answers at once, or with nothing after `block` seconds (at most BLOCK_LIMIT)."""
        commands = self._commands(max(1, int(min(block, BLOCK_LIMIT) * 1000)))
        try:
            self._connection.connect()
            self._connection.send_packed_command(self._connection.pack_commands(commands))
        except redis.RedisError as exc:
            raise unavailable(self._address, exc) from None
        except _CLOSED as exc:
            raise unavailable(self._address, redis.ConnectionError(str(exc))) from None
        self._asked = len(commands)
        self.due_at = time.monotonic() + block + LATE

    def give_up_if_overdue(self) -> None:
        """For an owner that does not wait in `answer`. Raises RedisUnavailableError if the answer has not come."""
        if self.waiting and time.monotonic() >= self.due_at:
            self.close()
            raise unavailable(self._address, redis.TimeoutError("no answer in time, the connection is dead"))

    def answer(self) -> list[Delivered]:
        """Receive what was asked for. Empty if there was nothing."""
        return [Delivered(entry, _id_in(fields)) for entry, fields in self._receive()]

    def _receive(self) -> Sequence[tuple[bytes, list[bytes]]]:
        asked, self._asked = self._asked, 0
        try:
            # Each time that it waits for more of the answer.
            self._connection._sock.settimeout(max(LATE, self.due_at - time.monotonic()))
            for _ in range(asked - 1):
                self._connection.read_response()
            read = self._connection.read_response()
        except redis.RedisError as exc:
            self._connection.disconnect()
            if not is_damage(exc):
                raise unavailable(self._address, exc) from None
            self._begin_anew(exc)
            return ()
        except _CLOSED as exc:
            raise unavailable(self._address, redis.ConnectionError(str(exc))) from None
        return read[0][1] if read else ()

    def _begin_anew(self, why: object) -> None:
        tell_once(f"the stream {self._stream}", why)
        try:
            self._client.unlink(self._stream)
        except redis.RedisError as exc:
            raise unavailable(self._address, exc) from None

    def close(self) -> None:
        """Close the connection; a thread that waits in `answer` is woken."""
        self._connection.disconnect()
        self._asked = 0


class OrderReader(BlockingReader):
    """The calls that this machine's worker shall kill."""

    def __init__(self, client: "redis.Redis", address: Address, stream: str) -> None:
        self._last = b"0-0"

        def commands(block_ms: int) -> Sequence[Sequence[Any]]:
            return [("XREAD", "BLOCK", block_ms, "STREAMS", stream, self._last)]

        super().__init__(client, address, stream, commands)

    def orders(self) -> list[str]:
        """Receive what was asked for: ids of calls."""
        entries = self._receive()
        if entries:
            self._last = entries[-1][0]
        return [_id_in(fields).decode() for _, fields in entries]


class OutcomeReader(BlockingReader):
    """The outcomes and reports for one client, in order; each read removes what was taken from those before."""

    def __init__(
        self,
        client: "redis.Redis",
        address: Address,
        stream: str,
        parse: Callable[[Sequence[Mapping[bytes, bytes]]], Iterator[Outcome | Report | None]],
    ) -> None:
        self._parse = parse
        self._last = b"0-0"
        self._count = OUTCOMES_PER_READ
        self.answered_at = 0.0  # when the last answer came (monotonic)
        self.at_end = False  # whether that was all there was

        def commands(block_ms: int) -> Sequence[Sequence[Any]]:
            trim = [("XTRIM", stream, "MINID", _after(self._last))] if self._last != b"0-0" else []
            count = ("COUNT", self._count, "BLOCK", block_ms)
            return [*trim, ("XREAD", *count, "STREAMS", stream, self._last)]

        super().__init__(client, address, stream, commands)

    def rewind(self) -> None:
        """Read from the beginning: the stream is another one."""
        self._last = b"0-0"

    def read(self, block: float) -> Iterator[Outcome | Report]:
        """Wait up to `block` seconds for news. What is large is fetched when its turn comes: if Redis goes away in
        between, the next read goes on after what was taken.
        """
        self.ask(block)
        # Unless all goes well: on a link that breaks often a long answer never arrives whole.
        asked, self._count = self._count, max(1, self._count // 4)
        entries = self._receive()
        self.answered_at, self.at_end = time.monotonic(), len(entries) < asked
        news = self._parse([dict(zip((flat or ())[::2], (flat or ())[1::2], strict=False)) for _, flat in entries])
        for entry, _ in entries:
            try:
                heard = next(news)
            except redis.RedisError as exc:
                raise translate(self._address, exc) from None
            self._last = entry
            if heard is not None:
                yield heard
        if self._last == _LAST_ID:
            self._begin_anew("an entry has the last id that there is")
            self.rewind()
        self._count = min(OUTCOMES_PER_READ, asked * 2)


def _id_in(fields: Sequence[bytes] | None) -> bytes:
    """The id in an entry {id}; empty: there is none. The script that takes it removes such an entry."""
    try:
        return word(fields[1], "id").encode() if fields and len(fields) == 2 and fields[0] == b"id" else b""
    except PayloadError:
        return b""


def _after(entry: bytes) -> str:
    """The smallest id above this one: XTRIM MINID keeps what is not smaller."""
    milliseconds, sequence = entry.decode().split("-")
    return f"{milliseconds}-{int(sequence) + 1}"
