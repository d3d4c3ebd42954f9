"""Functions that tests submit, good and bad ones. They run in machines, which import this module by name."""

import asyncio
import ctypes
import fcntl
import multiprocessing
import os
import pdb
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import flyexecutor  # and no name from it: each runner of each test would load what only clients need


@dataclass(frozen=True)
class Gate:
    """Lets a test and a call wait for each other, through two named pipes: no polling, no sleep."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Gate":
        for name in ("entered", "open"):
            os.mkfifo(folder / name)
        return cls(folder)

    def wait_for_entry(self) -> str:
        """In the test: blocks until a call is at the gate. Answers its machine."""
        return (self.folder / "entered").read_text()

    def open(self) -> None:
        """In the test: lets the call pass that is at the gate."""
        (self.folder / "open").write_text("pass")

    def enter(self) -> str:
        """In the call: says that it is here, and blocks until the test opens. Answers the machine."""
        machine = os.environ["FLY_MACHINE_ID"]
        (self.folder / "entered").write_text(machine)
        (self.folder / "open").read_text()
        return machine


class LockEvent:
    """Like threading.Event, for calls in other processes: who waits wants the lock on a file, which `set` gives up."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = path.open("w")
        fcntl.flock(self._held, fcntl.LOCK_EX)

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path}

    def wait(self) -> bool:
        with self._path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
        return True

    def set(self) -> None:
        self._held.close()


def increment(number: int) -> int:
    return number + 1


def machine_id() -> str:
    return os.environ["FLY_MACHINE_ID"]


def environment(name: str) -> str | None:
    return os.environ.get(name)


def echo(value: Any) -> Any:
    return value


def raise_value_error(text: str) -> NoReturn:
    raise ValueError(text)


def fail_on(bad: int, number: int) -> int:
    if number == bad:
        raise ValueError(f"{number} is bad")
    return number


def exit_with(code: int) -> NoReturn:
    sys.exit(code)


def exit_at_once(code: int) -> NoReturn:
    os._exit(code)


def segfault() -> None:
    ctypes.string_at(0)


def kill_own_worker() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


class OddError(Exception):
    """Pickle can't make it anew: its constructor wants more than its args."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_odd_error() -> NoReturn:
    raise OddError(1, 2)


class Unpicklable:
    def __reduce__(self) -> NoReturn:
        raise TypeError("this object stays here")


def return_unpicklable() -> Unpicklable:
    return Unpicklable()


def append_line(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


def print_lines(*lines: str) -> None:
    for line in lines:
        print(line)


def print_and_enter(gate: Gate, line: str) -> str:
    print(line)
    return gate.enter()


def hang(gate: Gate) -> None:
    """Says that it is here, then does nothing for ever; tells when it is stopped."""
    try:
        gate.enter()
    finally:
        append_line(gate.folder / "finally", "cleaned up")


def hang_stubbornly(gate: Gate) -> NoReturn:
    """Ignores SIGTERM. Says at the gate which process it is."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (gate.folder / "entered").write_text(str(os.getpid()))
    while True:
        signal.pause()


def need_memory(megabytes: int) -> int:
    """Touches so much memory; answers the machine's size. On a machine that is too small it waits for its end."""
    held = bytearray(megabytes * 1024 * 1024)
    held[::4096] = b"x" * len(held[::4096])
    size = int(os.environ["FLY_VM_MEMORY_MB"])
    if megabytes > size:
        signal.pause()
    return size


def raise_at_first(path: Path, times: int, error: BaseException) -> int:
    """Raises so many times; answers how many attempts there were."""
    append_line(path, "attempt")
    attempts = len(path.read_text().splitlines())
    if attempts <= times:
        raise error
    return attempts


def note_progress(note: str) -> None:
    flyexecutor.progress(1, None, note)


def report_progress(gate: Gate) -> None:
    flyexecutor.progress(1, 4, "a quarter")
    gate.enter()
    for done in range(2, 5):
        flyexecutor.progress(done, 4, "nearly")


def identify() -> tuple[str, int]:
    call = flyexecutor.current_call()
    assert call
    return call.id, call.attempt


def nest(depth: int) -> int:
    """Submits itself from inside a call, and waits for it."""
    return 0 if depth == 0 else flyexecutor.FlyMachineExecutor().submit(nest, depth - 1).result() + 1


async def add_soon(one: int, two: int) -> int:
    await asyncio.sleep(0)
    return one + two


def count_to(number: int) -> Iterator[int]:
    yield from range(number)


def fail_after(number: int) -> Iterator[int]:
    yield from range(number)
    raise ValueError("no more")


def crash_on(bad: int, number: int) -> int:
    if number == bad:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number


class PoisonedError(Exception):
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse_to_load, ()


class Poisoned:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse_to_load, ()


def _refuse_to_load() -> NoReturn:
    raise RuntimeError("this does not load")


def raise_poisoned() -> NoReturn:
    raise PoisonedError


def return_poisoned() -> Poisoned:
    return Poisoned()


_initialized: list[str] = []


def initialize(text: str) -> None:
    _initialized.append(text)


def what_was_initialized() -> list[str]:
    return list(_initialized)


def fail_to_initialize() -> NoReturn:
    raise OSError("no such disk")


def leave_a_mark() -> None:
    """A warm-up: what it does is there when a call comes."""
    _initialized.append("warm")


def clock() -> float:
    return time.time()


def rest_and_return(seconds: float, value: int) -> int:
    time.sleep(seconds)
    return value


class OwnBaseError(BaseException):
    pass


def raise_(error: BaseException) -> NoReturn:
    raise error


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int


def raise_frozen(code: int) -> NoReturn:
    raise FrozenError(code)


class Grumpy:
    """Raises, as soon as it is pickled or unpickled."""

    def __init__(self, error: BaseException, when: str) -> None:
        self._error, self._when = error, when

    def __reduce__(self) -> tuple[Any, ...]:
        if self._when == "pickled":
            raise self._error
        return raise_, (self._error,)


class UntellableError(Exception):
    """Can't be pickled, and has nothing to say."""

    def __str__(self) -> str:
        raise OwnBaseError

    def __reduce__(self) -> NoReturn:
        sys.exit("not this one")


def raise_untellable() -> NoReturn:
    raise UntellableError


def raise_without_traceback() -> NoReturn:
    """Python can't format this one."""
    raise SyntaxError("wrong", ("file", 1, 1, 123))


def raise_much(characters: int) -> NoReturn:
    raise ValueError("much " * (characters // 5))


class HereError(Exception):
    """Its class can't be pickled."""

    __module__ = "__main__"
    lock = threading.Lock()


def raise_here() -> NoReturn:
    raise HereError("here")


class NumberError(Exception):
    """Is a number once it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ()


def raise_number() -> NoReturn:
    raise NumberError


def raise_in_a_circle() -> NoReturn:
    """The causes of this go in a circle, and so does what it holds; it can't be pickled."""
    first, second = Exception(sys._getframe()), Exception("second")
    first.__cause__, second.__cause__, first.__context__ = second, first, second
    first.args = (first, sys._getframe())
    raise first


def yield_and_raise(error: BaseException) -> Iterator[int]:
    yield 1
    raise error


class Dumb:
    """An output without flush."""

    def write(self, text: str) -> None: ...


def spoil_output(how: str) -> None:
    match how:
        case "close":
            sys.stdout.close()
            sys.stderr.close()
        case "none":
            sys.stdout = sys.stderr = None  # type: ignore[assignment]
        case "descriptors":
            os.close(1)
            os.close(2)
        case "hasty":
            os.set_blocking(1, False)
        case "dumb":
            sys.stdout = sys.stderr = Dumb()  # type: ignore[assignment]


def spoil_output_and_raise(how: str) -> NoReturn:
    spoil_output(how)
    raise ValueError("no")


def set_environment(name: str, value: str) -> None:
    os.environ[name] = value


def ask(how: str) -> str:
    """Wants a person to type something."""
    match how:
        case "input":
            return input("name? ")
        case "line":
            return next(iter(sys.stdin))
        case "pdb":
            pdb.set_trace()
        case "breakpoint":
            breakpoint()
    return "went on"


def print_twice(text: str) -> None:
    print(text)
    print(text, file=sys.stderr)


def fork_and(end: str) -> int:
    """Ends in two processes; in the first, which waits for the other, with its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    flyexecutor.progress(99, 99, "of the child")
    if end == "raise":
        raise ValueError("in the child")
    if end == "exit":
        sys.exit(7)
    if end == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    return -1


def fork_in_stream() -> Iterator[int]:
    yield 1
    child = os.fork()
    yield 2
    if child:
        os.waitpid(child, 0)
        yield 3


def fork_a_pool() -> list[int]:
    """Returns while the processes of its pool still run."""
    global _pool  # noqa: PLW0603
    _pool = multiprocessing.get_context("fork").Pool(2)
    return _pool.map(increment, range(3))


_pool: Any = None


def end_the_pool() -> None:
    _pool.terminate()


def end_children_at_their_birth(number: int) -> int:
    """How many children have ended that got SIGTERM before they had run a line; the first that has not is the last."""
    for ended in range(number):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(5,))
        child.start()
        child.terminate()
        child.join()
        if child.exitcode != -signal.SIGTERM:
            return ended
    return number


def hang_and_turn_into(error: BaseException, gate: Gate) -> None:
    """What stops it becomes another exception."""
    try:
        gate.enter()
    except BaseException:  # noqa: BLE001 - that is the point
        raise error from None


def nest_in_two(gate: Gate) -> int:
    """Waits for calls of two executors; those of one have ended while one of the other's is still at the gate."""
    one, two = flyexecutor.FlyMachineExecutor(), flyexecutor.FlyMachineExecutor()
    at_gate = one.submit(gate.enter)
    gate.wait_for_entry()
    first = two.submit(increment, 0).result()
    second = one.submit(increment, first).result(20.0)
    gate.open()
    at_gate.result()
    return second
