"""A client of the soak, a process: `python -m tests.soak_client`, with its `Orders` as JSON on standard input.

Some threads make calls of every kind, one after the other, and judge what they come to; a line of JSON for each goes
to a file. One of the third kind makes calls, says which are stored, and waits to be killed.
"""

import faulthandler
import itertools
import json
import logging
import os
import random
import resource
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flyexecutor import (
    CallForgottenError,
    CallKilledError,
    CallTimeoutError,
    ExpiredCallError,
    FlyFuture,
    FlyMachineExecutor,
    MachineLostError,
    MachineStartError,
    NotStartedError,
    OutOfMemoryError,
    RedisUnavailableError,
    Retry,
    UnknownCallError,
    WorkerCrashedError,
)
from tests import soak_calls
from tests.tasks import OddError
from tests.wire import detour

LOST = (
    CallForgottenError,
    ExpiredCallError,
    UnknownCallError,
    MachineLostError,
    MachineStartError,
    RedisUnavailableError,
)
ENDINGS = {
    "sys.exit": WorkerCrashedError,
    "os._exit": WorkerCrashedError,
    "odd exception": OddError,
    "unpicklable result": TypeError,
}
KB, MB = 1024, 1024 * 1024


@dataclass(frozen=True)
class Orders:
    """What a client is told."""

    name: str
    folder: str
    seed: int
    settings: dict[str, Any]  # of its executor
    address: int  # the port in its REDIS_URL,
    way: int  # and the one that it goes through
    began: float
    ends: float  # no calls are made after that
    patience: float  # further seconds after which what has not ended hangs
    threads: int
    doomed: bool = False  # it is the third


@dataclass
class Job:
    """Some calls of one kind, and what came of them: "right", else "wrong", "twice", "lost", "hung", or "crashed"."""

    kind: str
    token: str
    began: float
    calls: int = 1
    verdict: str = "right"
    detail: str = ""
    ended: float = 0.0
    words: dict[str, str] = field(default_factory=dict)  # call id -> word of the run that answered
    ids: list[str] = field(default_factory=list)


class WrongError(Exception):
    """What came is not what should have come."""


class HangError(Exception):
    """Nothing came."""


class Client:
    """Makes calls, and judges what comes of them."""

    def __init__(self, orders: Orders, executor: FlyMachineExecutor) -> None:
        self.orders = orders
        self.executor = executor
        self.deadline = orders.ends + orders.patience
        self.ended: Counter[int] = Counter()  # how often each future has, by its number
        self.futures = itertools.count()
        self.jobs: dict[threading.Thread, Job] = {}  # under way
        self.adopted: deque[dict[str, Any]] = deque()
        self.numbers = itertools.count()
        self.writing = threading.Lock()

    # Tools of jobs

    @property
    def left(self) -> float:
        return max(0.01, self.deadline - time.time())

    def watch(self, job: Job, future: FlyFuture[Any]) -> FlyFuture[Any]:
        number = next(self.futures)
        job.ids.append(future.id)
        future.add_done_callback(lambda _: self.ended.update([number]))
        return future

    def submit(self, job: Job, executor: FlyMachineExecutor, fn: Callable[..., Any], *args: Any) -> FlyFuture[Any]:
        return self.watch(job, executor.submit(fn, *args))

    def result(self, future: FlyFuture[Any]) -> Any:
        try:
            return future.result(self.left)
        except TimeoutError:
            if future.done():
                raise
            raise HangError(f"call {future.id}") from None

    def check(self, job: Job, future: FlyFuture[Any], body: bytes = b"", size: int = 0) -> None:
        """The future's result is that of `answer`."""
        self.compare(job, future.id, self.result(future), job.token, body, size)

    @staticmethod
    def compare(job: Job, call_id: str, came: Any, token: str, body: bytes, size: int) -> None:
        expected = (token, soak_calls.digest(body), soak_calls.filler(token, size))
        if came[:3] != expected:
            raise WrongError(f"call {call_id}: token {came[0]!r}, digest {came[1]!r}, {len(came[2])} bytes")
        job.words[call_id] = came[3]

    def stored(self) -> bool:
        """Whether all is stored that was submitted so far."""
        with suppress(RedisUnavailableError):
            self.executor.flush(min(60.0, self.left))
            return True
        return False

    def attach(self, call_id: str) -> FlyFuture[Any]:
        while True:
            try:
                return self.executor.future(call_id)
            except RedisUnavailableError as exc:
                if time.time() > self.deadline:
                    raise HangError(f"attach to {call_id}: {exc}") from None
                time.sleep(0.2)

    # Kinds of calls

    def small(self, job: Job, chance: random.Random) -> None:
        body = chance.randbytes(chance.randrange(2000))
        self.check(
            job, self.submit(job, self.executor, soak_calls.answer, job.token, body, chance.uniform(0, 0.1)), body
        )

    def slow(self, job: Job, chance: random.Random) -> None:
        future = self.submit(job, self.executor, soak_calls.answer, job.token, b"", chance.uniform(0.5, 3.0))
        self.check(job, future)

    def large(self, job: Job, chance: random.Random, sizes: tuple[int, ...] = (300 * KB, 2 * MB)) -> None:
        body, size = soak_calls.filler(f"{job.token} in", chance.choice(sizes)), chance.choice(sizes)
        self.check(job, self.submit(job, self.executor, soak_calls.answer, job.token, body, 0.0, size), body, size)

    def huge(self, job: Job, chance: random.Random) -> None:
        self.large(job, chance, (12 * MB, KB))

    def awaited(self, job: Job, chance: random.Random) -> None:
        self.check(job, self.submit(job, self.executor, soak_calls.answer_soon, job.token, b"x"), b"x")

    def raising(self, job: Job, chance: random.Random) -> None:
        self.expect(ValueError, job, self.submit(job, self.executor, soak_calls.refuse, job.token))

    def expect(self, kind: type[BaseException], job: Job, future: FlyFuture[Any]) -> None:
        try:
            came = self.result(future)
        except kind as exc:
            if kind is ValueError and exc.args != (job.token,):
                raise WrongError(f"call {future.id} raised {exc!r}") from None
            if kind is WorkerCrashedError and "exit code 3" not in str(exc):
                raise
        else:
            raise WrongError(f"call {future.id} answered {came!r} instead of raising {kind.__name__}")

    def ending(self, job: Job, chance: random.Random) -> None:
        how = chance.choice(sorted(ENDINGS))
        self.expect(ENDINGS[how], job, self.submit(job, self.executor, soak_calls.end_by, job.token, how))

    def retried(self, job: Job, chance: random.Random) -> None:
        retry = Retry(attempts=6, on=ValueError, wait=chance.choice((0.0, 0.1, 1.0)), lost=soak_calls.LOST)
        executor = self.executor.with_options(retries=retry)
        self.check(job, self.submit(job, executor, soak_calls.stumble, job.token, chance.randrange(1, 4)))

    def at_most_once(self, job: Job, chance: random.Random) -> None:
        future = self.submit(
            job, self.executor.with_options(retries=0), soak_calls.answer, job.token, b"", chance.uniform(0, 0.5)
        )
        with suppress(MachineLostError):
            self.check(job, future)
        if len(soak_calls.runs(self.orders.folder, job.token)) > 1:
            raise WrongError(f"call {future.id} with retries=0 ran more than once")

    def mapped(self, job: Job, chance: random.Random) -> None:
        shared, n = soak_calls.filler(job.token, chance.choice((100, 100 * KB, MB))), chance.randrange(2, 30)
        job.calls = n
        expected = [(job.token, soak_calls.digest(shared), number) for number in range(n)]
        told: dict[str, Any] = {"timeout": self.left, "chunksize": chance.choice((1, 1, 3, 10))}
        how = chance.choice(("map", "starmap", "map_unordered"))
        args = ([job.token] * n, [shared] * n, range(n))
        try:
            if how == "map":
                came = list(self.executor.map(soak_calls.item, *args, buffersize=chance.choice((None, 4)), **told))
            elif how == "starmap":
                came = list(self.executor.starmap(soak_calls.item, zip(*args, strict=True), **told))
            else:
                came = sorted(self.executor.map_unordered(soak_calls.item, *args, **told), key=lambda one: one[2])
        except TimeoutError:
            raise HangError(f"{how} of {n} items, {told}") from None
        if came != expected:
            raise WrongError(f"{how} of {n} items, {told}: {[one[2] for one in came]}")

    def streamed(self, job: Job, chance: random.Random) -> None:
        number, size = chance.choice(((30, 100), (5, 400 * KB), (0, 0)))
        stream = self.executor.stream(soak_calls.items, job.token, number, size)
        self.watch(job, stream.future)
        if chance.random() < 0.1:
            next(stream, None)
            with suppress(RedisUnavailableError):  # then it goes on to its end, unheard
                stream.close()
            return
        came = list(stream)
        if came != [soak_calls.filler(f"{job.token} {n}", size) for n in range(number)]:
            raise WrongError(f"call {stream.future.id}: {len(came)} of {number} items of {size} bytes")

    def batched(self, job: Job, chance: random.Random) -> None:
        n = job.calls = chance.randrange(2, 12)
        batch = self.executor.submit_batch(soak_calls.answer, [job.token] * n, [b"b"] * n)
        for future in batch.futures:
            self.watch(job, future)
        if chance.random() < 0.3 and self.stored():
            with suppress(RedisUnavailableError):
                batch = self.executor.batch(batch.id)
        if len(batch) != n:
            raise WrongError(f"the batch {batch.id} has {len(batch)} calls instead of {n}")
        for future in batch.futures:
            self.check(job, future, b"b")

    def keyed(self, job: Job, chance: random.Random) -> None:
        # The other client does the same at the same time.
        job.token = f"key-{int((time.time() - self.orders.began) / 1.5)}"
        executor = self.executor.with_options(key=job.token)
        self.check(job, self.submit(job, executor, soak_calls.answer, job.token, b"key", 0.3), b"key")

    def expiring(self, job: Job, chance: random.Random) -> None:
        future = self.submit(job, self.executor.with_options(expires=0.2), soak_calls.answer, job.token, b"")
        try:
            self.check(job, future)
        except NotStartedError:
            if soak_calls.runs(self.orders.folder, job.token):
                raise WrongError(f"call {future.id} ran, and is told never to have begun") from None

    def timed_out(self, job: Job, chance: random.Random) -> None:
        executor = self.executor.with_options(timeout=0.5)
        self.expect(CallTimeoutError, job, self.submit(job, executor, soak_calls.answer, job.token, b"", 600.0))

    def cancelled(self, job: Job, chance: random.Random) -> None:
        future = self.submit(job, self.executor, soak_calls.answer, job.token, b"", 0.2)
        time.sleep(chance.choice((0.0, 0.01, 0.1)))
        taken = future.cancel()
        if taken and not future.cancelled():
            raise WrongError(f"cancel() of {future.id} is True, its future is {future!r}")
        # False and cancelled all the same: Redis did it, and its answer was lost on the way.
        if not self.was_cancelled(future):
            self.check(job, future)

    def was_cancelled(self, future: FlyFuture[Any]) -> bool:
        """Waits for its end."""
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        if not ended.wait(self.left):
            raise HangError(f"call {future.id}")
        return future.cancelled()

    def killed(self, job: Job, chance: random.Random) -> None:
        future = self.submit(job, self.executor, soak_calls.answer, job.token, b"", 600.0)
        time.sleep(chance.uniform(0.0, 1.0))
        told = None
        while not future.done():  # what is told Kill.UNKNOWN, or nothing, is asked for again
            with suppress(RedisUnavailableError):
                told = future.kill(timeout=min(15.0, self.left))
            if time.time() > self.deadline:
                raise HangError(f"call {future.id}, kill() told {told}")
            time.sleep(0.05)
        if self.was_cancelled(future):
            return
        try:
            self.result(future)
        except CallKilledError:
            return
        raise WrongError(f"call {future.id} was to be killed ({told}) and answered")

    def telling(self, job: Job, chance: random.Random) -> None:
        future = self.submit(job, self.executor, soak_calls.tell, job.token, 10)
        self.check(job, future)
        told = future.progress()
        if told and (told.total != 10 or told.note != job.token):
            raise WrongError(f"call {future.id} told {told}")

    def nested(self, job: Job, chance: random.Random) -> None:
        depth = chance.randrange(1, 3)
        job.calls = depth + 1
        future = self.submit(job, self.executor, soak_calls.nest, job.token, depth)
        if (came := self.result(future)) != depth:
            raise WrongError(f"call {future.id} answered {came!r}, not {depth}")

    def shared(self, job: Job, chance: random.Random) -> None:
        """Another client attaches to it."""
        future = self.submit(job, self.executor, soak_calls.answer, job.token, b"", chance.uniform(0.0, 2.0))
        if self.stored():
            self.write({"attach": future.id, "token": job.token, "body": ""}, f"shared-by-{self.orders.name}")
        self.check(job, future)

    def adopt(self, job: Job, told: dict[str, Any]) -> None:
        job.token = told["token"]
        future = self.watch(job, self.attach(told["attach"]))
        self.compare(job, future.id, self.result(future), told["token"], told["body"].encode(), 0)

    # The process

    def write(self, told: dict[str, Any], name: str) -> None:
        with self.writing, Path(self.orders.folder, f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(told) + "\n")

    def report(self, **told: Any) -> None:
        self.write(told, self.orders.name)

    def work(self, number: int) -> None:
        """A thread: one job after the other."""
        chance = random.Random(f"{self.orders.seed} {self.orders.name} {number}")
        kinds = [getattr(self, name) for name, times in KINDS.items() for _ in range(times)]
        while True:
            if self.adopted:
                with suppress(IndexError):
                    told = self.adopted.popleft()
                    self.do(told["kind"], lambda job, told=told: self.adopt(job, told))
            elif time.time() < self.orders.ends:
                kind = chance.choice(kinds)
                self.do(kind.__name__, lambda job, kind=kind: kind(job, chance))
            elif Path(self.orders.folder, "no more").exists() and not self.adopted:
                return
            else:
                time.sleep(0.05)

    def do(self, kind: str, run: Callable[[Job], None]) -> None:
        job = Job(kind, f"{self.orders.name}-{next(self.numbers)}", time.time())
        self.jobs[threading.current_thread()] = job
        try:
            run(job)
        except HangError as exc:
            job.verdict, job.detail = "hung", str(exc)
            faulthandler.dump_traceback(all_threads=True)
        except WrongError as exc:
            job.verdict, job.detail = "wrong", str(exc)
        except (WorkerCrashedError, OutOfMemoryError) as exc:
            # Right if somebody has killed the process, as the kernel does when memory runs out: the soak knows.
            job.verdict, job.detail = "crashed", tell_error(exc)
        except LOST as exc:
            job.verdict, job.detail = "lost", tell_error(exc)
        except BaseException as exc:  # noqa: BLE001 - a future may raise anything
            job.verdict, job.detail = "wrong", tell_error(exc)
        del self.jobs[threading.current_thread()]
        job.ended = time.time()
        self.report(job=asdict(job))

    def read_adoptions(self) -> None:
        """A thread: what others leave for this client to attach to."""
        with Path(self.orders.folder, f"for-{self.orders.name}.jsonl").open("a+") as file:
            file.seek(0)
            rest = ""
            while True:
                rest += file.read()
                *lines, rest = rest.split("\n")
                self.adopted.extend(json.loads(line) for line in lines)
                time.sleep(0.1)

    def run(self) -> int:
        threading.Thread(target=self.read_adoptions, daemon=True).start()
        numbers = range(self.orders.threads)
        threads = [threading.Thread(target=self.work, args=(number,), daemon=True) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.1, self.deadline + 5.0 - time.time()))
        hung = list(self.jobs.values())
        for job in hung:
            self.report(job=asdict(job) | {"verdict": "hung", "detail": "its thread waits", "ended": time.time()})
        closing = threading.Thread(target=self.executor.shutdown, kwargs={"wait": not hung}, daemon=True)
        closing.start()
        closing.join(30.0)
        if hung or closing.is_alive():
            faulthandler.dump_traceback(all_threads=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MB if sys.platform == "darwin" else KB)
        twice = sum(number > 1 for number in self.ended.values())
        self.report(end={"twice": twice, "shutdown_hung": closing.is_alive(), "peak_mb": peak})
        sys.stderr.flush()
        os._exit(0)  # what hangs must not hold it up

    def run_doomed(self) -> None:
        """The third client: makes calls, tells which are stored, and waits for its end."""
        chance = random.Random(f"{self.orders.seed} {self.orders.name}")
        sent = []
        shared = soak_calls.filler(self.orders.name, MB)
        for _ in range(chance.randrange(3, 10)):
            token = f"{self.orders.name}-{next(self.numbers)}"
            future = self.executor.submit(soak_calls.answer, token, token.encode(), chance.uniform(0.0, 1.0))
            sent.append({"attach": future.id, "token": token, "body": token})
        # What nobody will ask for: it must not stay behind.
        left = [self.executor.map(soak_calls.item, [self.orders.name] * 5, [shared] * 5, range(5))]
        left.append(self.executor.stream(soak_calls.items, f"{self.orders.name}-stream", 5, 400 * KB))
        left.append(self.executor.submit(soak_calls.answer, f"{self.orders.name}-large", bytes(2 * MB), 0.0, 2 * MB))
        if self.stored():
            for told in sent:
                self.write(told, self.orders.name)
        self.write({"stored": True}, self.orders.name)
        while True:
            signal.pause()


# Of one client's jobs; the large are rare.
KINDS = {
    "small": 10,
    "slow": 3,
    "large": 2,
    "huge": 1,
    "awaited": 2,
    "raising": 2,
    "ending": 2,
    "retried": 3,
    "at_most_once": 3,
    "mapped": 5,
    "streamed": 4,
    "batched": 3,
    "keyed": 4,
    "expiring": 2,
    "timed_out": 1,
    "cancelled": 3,
    "killed": 2,
    "telling": 2,
    "nested": 2,
    "shared": 3,
}


def tell_error(exc: BaseException) -> str:
    return " | ".join([f"{type(exc).__name__}: {exc}", *getattr(exc, "__notes__", ())])


class Complaints(logging.Handler):
    """Hears of what must never be said: a future that was resolved twice, a callback that raised."""

    def __init__(self, client: Client) -> None:
        super().__init__(logging.ERROR)
        self._client = client

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "concurrent.futures" or "InvalidStateError" in str(record.exc_info):
            self._client.report(twice=record.getMessage() + str(record.exc_info))


def main() -> None:
    orders = Orders(**json.loads(sys.stdin.readline()))
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    logging.basicConfig(format="%(asctime)s %(threadName)s %(name)s: %(message)s", level=logging.INFO)
    with detour(SimpleNamespace(port=orders.address), SimpleNamespace(port=orders.way)):
        client = Client(orders, FlyMachineExecutor(**orders.settings, retries=Retry(lost=soak_calls.LOST)))
        logging.getLogger().addHandler(Complaints(client))

        def tell_of_death(told: threading.ExceptHookArgs) -> None:
            faulthandler.dump_traceback(all_threads=True)
            threading.__excepthook__(told)
            client.report(died=f"{told.thread}: {told.exc_value!r}")

        threading.excepthook = tell_of_death
        if orders.doomed:
            client.run_doomed()
        else:
            client.run()


if __name__ == "__main__":
    main()
