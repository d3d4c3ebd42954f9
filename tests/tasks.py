"""Functions that tests submit, good and bad ones. They run in machines, which import this module by name."""

import ctypes
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn


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
    """Can't be unpickled: its constructor wants more than its args."""

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
