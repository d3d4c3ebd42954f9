"""A faulty wire: a TCP proxy on 127.0.0.1 that delays, throttles, cuts in the middle of an answer, refuses, goes deaf.

    with Wire("127.0.0.1", port, seed=1) as wire:
        executor = FlyMachineExecutor(local=fly, redis_url=wire.url(fly.redis_url))   # it and its machines
        wire.deaf()

Each side apart: two wires, that of the machines in `redis_url`, and in the clients' process `with detour(it, theirs):`.
Owns a thread with an event loop; `close` (or the end of `with`) ends it and every connection. A fault holds from the
call that sets it, for connections that exist too; methods may be called by any thread, and return when it holds.
"""

import asyncio
import contextlib
import math
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self
from unittest import mock
from urllib.parse import urlsplit

PIECE = 256 * 1024
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close answers with RST, and what is still on its way is lost


@dataclass(frozen=True, slots=True)
class Weather:
    """What is wrong now."""

    delay: float = 0.0
    rate: float = math.inf  # bytes per second, of each connection and direction
    cut_after: float = math.inf  # bytes of answers, of each connection
    cuts: float = math.inf  # how many connections are yet to be cut so
    refuses: bool = False
    deaf: bool = False  # new connections are


@dataclass(frozen=True, slots=True)
class Fault:
    """One of those that `misbehave` does."""

    pause: float  # seconds before it
    kind: str
    length: float  # seconds
    size: int  # bytes


def schedule(seed: float, every: float, longest: float) -> Iterator[Fault]:
    """Faults without end, the same for the same seed."""
    chance = random.Random(seed)
    kinds = ("cut", "cut", "cut_after", "delay", "throttle", "refuse", "deaf", "deaf, new ones too")
    while True:
        yield Fault(
            pause=min(chance.expovariate(1 / every), 3 * every),
            kind=chance.choice(kinds),
            length=chance.uniform(0.2, longest),
            size=int(10 ** chance.uniform(0.0, 5.5)),
        )


class Line:
    """One connection: a client's end, and the server's."""

    def __init__(self, near: asyncio.StreamWriter) -> None:
        self.ends = [near]
        self.deaf = False
        self.answered = 0  # bytes, since cut_after was last told

    def cut(self, *, reset: bool) -> None:
        for end in self.ends:
            if reset and not end.transport.is_closing():
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.transport.abort()


class Wire:
    """Listens on a free port for one server. seed: whether a cut is a RST or a FIN, and all that `misbehave` does."""

    def __init__(self, host: str, port: int, *, seed: int = 0) -> None:
        self.faults: Counter[str] = Counter()  # what misbehave did
        self.accepted = 0
        self._there = (host, port)
        self._random = random.Random(seed)
        self._weather = Weather()
        self._lines: set[Line] = set()
        self._misbehaviour: asyncio.Task[None] | None = None
        self._carriers: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._thread.start()
        self._server = self._do(lambda: asyncio.start_server(self._accept, "127.0.0.1", 0, limit=4 * 1024 * 1024))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def url(self, url: str) -> str:
        """The same URL, through the wire."""
        parts = urlsplit(url)
        credentials, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{credentials}{at}127.0.0.1:{self.port}").geturl()

    @property
    def connections(self) -> int:
        """How many there are, without those that have gone deaf."""
        return sum(not line.deaf for line in list(self._lines))

    # Faults

    def delay(self, seconds: float) -> None:
        """Whatever comes is held back for so long, in both directions."""
        self._change(delay=seconds)

    def throttle(self, bytes_per_second: float) -> None:
        """Of each connection and direction."""
        self._change(rate=bytes_per_second)

    def cut_after(self, size: int, *, times: float = math.inf) -> None:
        """Each connection is cut after so many bytes of answers from now on, in the middle of one; `times` of them."""
        self._change(cut_after=size, cuts=times)

    def cut(self) -> None:
        """All connections, now."""
        self._do(self._cut)

    def lead_to(self, port: int) -> None:
        """All connections are cut; new ones go to the server on this port, as after a failover."""

        def move() -> None:
            self._there = ("127.0.0.1", port)
            self._cut()

        self._do(move)

    def refuse(self, on: bool = True) -> None:
        """New connections are reset at once."""
        self._change(refuses=on)

    def deaf(self, on: bool = True, *, new: bool = False) -> None:
        """Connections fall silent for ever and none is reset, as behind a NAT that forgot them; `new` ones too, until
        this is over. Neither end learns of it when the other closes.
        """
        self._do(lambda: self._set(replace(self._weather, deaf=on and new), deafen=on))

    def heal(self) -> None:
        """All as at first, and no more misbehaving; what is deaf stays so."""
        self._do(self._heal)

    def misbehave(self, every: float = 2.0, longest: float = 4.0) -> None:
        """From now on one fault after the other, `every` so many seconds on average, by seed; until `heal`."""
        self._do(lambda: self._begin(self._misbehave(every, longest)))

    def close(self) -> None:
        self._do(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # In the loop's thread

    def _do(self, what: Callable[[], Any]) -> Any:
        async def run() -> Any:
            answer = what()
            return await answer if asyncio.iscoroutine(answer) else answer

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30.0)

    def _change(self, **what: Any) -> None:
        self._do(lambda: self._set(replace(self._weather, **what)))

    def _set(self, weather: Weather, *, deafen: bool = False) -> None:
        self._weather = weather
        for line in self._lines:
            line.deaf |= deafen
            line.answered = 0

    def _cut(self) -> None:
        for line in [line for line in self._lines if not line.deaf]:
            line.cut(reset=self._random.random() < 0.5)

    def _begin(self, misbehaviour: Any) -> None:
        self._heal()
        self._misbehaviour = asyncio.create_task(misbehaviour)

    def _heal(self) -> None:
        if self._misbehaviour:
            self._misbehaviour.cancel()
            self._misbehaviour = None
        self._set(Weather())

    async def _close(self) -> None:
        self._heal()
        # Who was accepted in this moment has a task of asyncio's own, which comes to `_accept` before it ends. Once the
        # server is closed it loses the connection instead, and leaves it open (CPython 3.11: Server._attach).
        for listening in self._server.sockets:
            self._loop.remove_reader(listening.fileno())
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for line in self._lines:
                line.cut(reset=False)
            for carrier in self._carriers:
                carrier.cancel()
            await asyncio.wait(others)
        for line in self._lines:
            line.cut(reset=False)
        self._server.close()

    def _accept(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        line = Line(near)
        self._lines.add(line)  # at once: a task that is cancelled before it begins would leave it open
        carrier = asyncio.create_task(self._join(line, reader, near))
        self._carriers.add(carrier)
        carrier.add_done_callback(self._carriers.discard)

    async def _join(self, line: Line, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        self.accepted += 1
        line.deaf = self._weather.deaf
        try:
            if line.deaf:
                return
            if self._weather.refuses:
                line.cut(reset=True)
                return
            answers, far = await asyncio.open_connection(*self._there, limit=4 * 1024 * 1024)
            line.ends.append(far)
            await asyncio.gather(self._carry(line, reader, far), self._carry(line, answers, near, answers=True))
        except OSError:  # one end has reset it, or the server is not there
            line.cut(reset=True)
        finally:
            if not line.deaf:
                line.cut(reset=False)
                self._lines.discard(line)

    async def _carry(
        self, line: Line, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        while piece := await source.read(PIECE):
            await asyncio.sleep(self._weather.delay)
            while piece and not line.deaf:
                weather = self._weather
                now = piece[: max(1, int(min(PIECE, weather.rate / 20)))]
                piece = piece[len(now) :]
                if answers and line.answered + len(now) > weather.cut_after and weather.cuts > 0:
                    self._weather = replace(weather, cuts=weather.cuts - 1)
                    sink.write(now[: int(weather.cut_after) - line.answered])
                    line.cut(reset=self._random.random() < 0.5)
                    return
                line.answered += len(now) * answers
                sink.write(now)
                await sink.drain()
                await asyncio.sleep(len(now) / weather.rate)
            if line.deaf:
                return
        if not line.deaf:
            line.cut(reset=False)

    async def _misbehave(self, every: float, longest: float) -> None:
        for fault in schedule(self._random.random(), every, longest):
            await asyncio.sleep(fault.pause)
            self.faults[fault.kind] += 1
            if fault.kind == "cut":
                self._cut()
            wrong = {
                "cut": Weather(),
                "cut_after": Weather(cut_after=fault.size),
                "delay": Weather(delay=fault.length / 10),
                "throttle": Weather(rate=20_000 + fault.size),
                "refuse": Weather(refuses=True),
                "deaf": Weather(),
                "deaf, new ones too": Weather(deaf=True),
            }
            self._set(wrong[fault.kind], deafen=fault.kind.startswith("deaf"))
            await asyncio.sleep(fault.length)
            self._set(Weather())


@contextlib.contextmanager
def detour(address: Wire, way: Wire) -> Iterator[None]:
    """In this process whatever is addressed to one wire goes through another, as by a route of its own."""
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *more: Any, **told: Any) -> Any:
        return real(host, way.port if port == address.port else port, *more, **told)

    with mock.patch.object(socket, "getaddrinfo", resolve):
        yield
