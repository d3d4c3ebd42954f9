"""Blocking reads in two halves.

A worker waits for calls, runners and signals at once, and a watcher must be woken when it is closed: so each has a
connection of its own, sends its read, and receives the answer when it likes. Owns that connection and no thread.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import redis

from flyexecutor.call import Mail, Outcome, Part, Report
from flyexecutor.damage import tell_once
from flyexecutor.secrecy import Address
from flyexecutor.store.connection import CONNECT_TIMEOUT, is_damage, translate, unavailable

BLOCK_LIMIT = 20.0  # seconds; a longer silence may be a dead connection: ask again
BUSY_BLOCK = 5.0  # seconds, while a call runs: what waits for this worker then must not wait for long
LATE = 3.0  # seconds that an answer may be late; the connection is dead then, even if nobody says so (a NAT forgot it)
ENTRIES_PER_READ = 200
MOST_TAKEN, MOST_TAKEN_BYTES = 50, 16 * 1024  # entries of outcomes that were taken, and are left for now
_NONE = b"0-0"  # before all entries
_LAST_ID = b"18446744073709551615-18446744073709551615"  # of an entry: nothing can be put behind it

_CLOSED = (OSError, ValueError, AttributeError)  # what redis-py raises when close() has taken its socket from under it


class StreamReader:
    """A blocking read of a stream on a connection of its own, in two halves: its owner can wait for more than that.

    Entries come in order; each read removes what was taken from those before.

    `ask` sends, `_receive` receives; in between `fileno` becomes readable. `close` may be called by another thread and
    ends a wait in `_receive`, with RedisUnavailableError. No wait is longer than what was asked for, and LATE. What is
    in the place of the stream, and is none, goes.
    """

    def __init__(self, client: "redis.Redis", address: Address, stream: str) -> None:
        self._client = client
        self._stream = stream
        self._address = address
        # Any: redis-py types its clients, hardly its connections.
        self._connection = cast("Any", client.connection_pool.make_connection())
        self._connection.socket_timeout = CONNECT_TIMEOUT  # for what redis-py asks when it connects
        self._last = _NONE
        self._removed = _NONE  # up to here Redis was told
        self._count = ENTRIES_PER_READ
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

    @property
    def read_to(self) -> str:
        """The smallest id above what was taken and is there still, as XTRIM MINID wants it; empty: nothing is."""
        if self._last == self._removed:
            return ""
        milliseconds, sequence = self._last.decode().split("-")
        return f"{milliseconds}-{int(sequence) + 1}"

    def note_removed(self) -> None:
        """What was taken is no longer there: somebody else has told Redis `read_to`."""
        self._removed = self._last

    def ask(self, block: float) -> None:
        """Send the read; the server answers at once, or with nothing after `block` seconds (at most BLOCK_LIMIT)."""
        block_ms = max(1, int(min(block, BLOCK_LIMIT) * 1000))
        read = ("XREAD", "COUNT", self._count, "BLOCK", block_ms, "STREAMS", self._stream, self._last)
        self._send([*(self._removal() if self._removes else ()), read], block)

    def _removal(self) -> Sequence[tuple[Any, ...]]:
        read_to = self.read_to
        return [("XTRIM", self._stream, "MINID", read_to)] if read_to else []

    def _send(self, commands: Sequence[tuple[Any, ...]], patience: float) -> None:
        try:
            self._connection.connect()
            self._connection.send_packed_command(self._connection.pack_commands(commands))
        except redis.RedisError as exc:
            raise unavailable(self._address, exc) from None
        except _CLOSED as exc:
            raise unavailable(self._address, redis.ConnectionError(str(exc))) from None
        self._asked = len(commands)
        self.due_at = time.monotonic() + patience + LATE

    def give_up_if_overdue(self) -> None:
        """For an owner that does not wait in `_receive`. Raises RedisUnavailableError if the answer has not come."""
        if self.waiting and time.monotonic() >= self.due_at:
            self.close()
            raise unavailable(self._address, redis.TimeoutError("no answer in time, the connection is dead"))

    @property
    def _removes(self) -> bool:
        """Whether what was taken is to be removed now."""
        return True

    def rewind(self) -> None:
        """Read from the beginning: the stream is another one."""
        self._last = self._removed = _NONE

    def close(self) -> None:
        """Close the connection; a thread that waits in `_receive` is woken."""
        self._connection.disconnect()
        self._asked = 0

    def _receive(self) -> Sequence[tuple[bytes, Sequence[bytes] | None]]:
        read = self._answer()
        return read[0][1] if read else ()

    def _answer(self) -> Any:
        """The answer to the last command that was sent; nothing if that met something else than a stream."""
        asked, self._asked = self._asked, 0
        try:
            # Each time that it waits for more of the answer.
            self._connection._sock.settimeout(max(LATE, self.due_at - time.monotonic()))
            for _ in range(asked - 1):
                self._connection.read_response()
                self.note_removed()
            return self._connection.read_response()
        except redis.RedisError as exc:
            self._connection.disconnect()
            if not is_damage(exc):
                raise unavailable(self._address, exc) from None
            self._begin_anew(exc)
            return ()
        except _CLOSED as exc:
            raise unavailable(self._address, redis.ConnectionError(str(exc))) from None

    def _go_on(self) -> None:
        """Behind the last entry that was taken, if anything can be put there."""
        if self._last == _LAST_ID:
            self._begin_anew("an entry has the last id that there is")
            self.rewind()

    def _begin_anew(self, why: object) -> None:
        tell_once(f"the stream {self._stream}", why)
        try:
            self._client.unlink(self._stream)
        except redis.RedisError as exc:
            raise unavailable(self._address, exc) from None


class InboxReader(StreamReader):
    """What is handed to one worker: calls that it has claimed, and orders to kill.

    What it has read it removes before it asks again, in a trip of its own. In one with the read, the answer to that
    would tell its owner that there is something to receive; and who receives waits for the read, deaf to its runners.
    """

    def __init__(
        self,
        client: "redis.Redis",
        address: Address,
        stream: str,
        parse: Callable[[Sequence[Mapping[bytes, bytes]], Mapping[str, Part]], Mail],
    ) -> None:
        self._parse = parse
        super().__init__(client, address, stream)

    def ask(self, block: float) -> None:
        """As a StreamReader does."""
        if removal := self._removal():
            self._send(removal, 0.0)
            self._answer()
            self.note_removed()
        super().ask(block)

    def receive(self, known: Mapping[str, Part]) -> Mail:
        """Receive what was asked for. What is large is fetched; `known`: parts that are here already."""
        entries = self._receive()
        try:
            mail = self._parse(_fields_of(entries), known)
        except redis.RedisError as exc:
            raise translate(self._address, exc) from None
        self._last = entries[-1][0] if entries else self._last
        self._go_on()
        return mail


class OutcomeReader(StreamReader):
    """The outcomes and reports for one client. What was taken is removed when there is some of it: a command less for a
    call on its own.
    """

    def __init__(
        self,
        client: "redis.Redis",
        address: Address,
        stream: str,
        parse: Callable[[Sequence[Mapping[bytes, bytes]]], Iterator[Outcome | Report | None]],
    ) -> None:
        self._parse = parse
        self.answered_at = 0.0  # when the last answer came (monotonic)
        self.at_end = False  # whether that was all there was
        self.remove_soon = False  # what was taken is kept nowhere else, and nobody asks for it again
        self._taken, self._taken_bytes = 0, 0  # that are there still
        super().__init__(client, address, stream)

    @property
    def _removes(self) -> bool:
        return self.remove_soon or self._taken >= MOST_TAKEN or self._taken_bytes >= MOST_TAKEN_BYTES

    def note_removed(self) -> None:
        """What was taken is no longer there."""
        super().note_removed()
        self.remove_soon, self._taken, self._taken_bytes = False, 0, 0

    def read(self, block: float) -> Iterator[Outcome | Report]:
        """Wait up to `block` seconds for news. What is large is fetched when its turn comes: if Redis goes away in
        between, the next read goes on after what was taken.
        """
        self.ask(block)
        # Unless all goes well: on a link that breaks often a long answer never arrives whole.
        asked, self._count = self._count, max(1, self._count // 4)
        entries = self._receive()
        self.answered_at, self.at_end = time.monotonic(), len(entries) < asked
        all_parts = [_parts_of(flat or ()) for _, flat in entries]
        self._taken += len(entries)
        self._taken_bytes += sum(len(word) for _, flat in entries for word in flat or ())
        news = self._parse([part for parts in all_parts for part in parts])
        for (entry, _), parts in zip(entries, all_parts, strict=True):
            for _ in parts:
                try:
                    heard = next(news)
                except redis.RedisError as exc:
                    raise translate(self._address, exc) from None
                if heard is not None:
                    yield heard
            self._last = entry
        self._go_on()
        self._count = min(ENTRIES_PER_READ, asked * 2)


def _fields_of(entries: Sequence[tuple[bytes, Sequence[bytes] | None]]) -> list[dict[bytes, bytes]]:
    return [dict(zip((flat or ())[::2], (flat or ())[1::2], strict=False)) for _, flat in entries]


def _parts_of(flat: Sequence[bytes]) -> list[dict[bytes, bytes]]:
    """An entry tells of several calls: each begins with its head."""
    parts: list[dict[bytes, bytes]] = []
    for name, value in zip(flat[::2], flat[1::2], strict=False):
        if name == b"head" or not parts:
            parts.append({})
        parts[-1][name] = value
    return parts
