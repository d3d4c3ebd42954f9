"""What machines are told by whoever makes them, and tell it. `apps.Apps` is the one that there is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flyexecutor.local.faults import Faults
    from flyexecutor.local.machine import Machine
    from flyexecutor.local.pace import Pace


class Host(Protocol):
    """What machines run on."""

    run: Path
    faults: "Faults"
    pace: "Pace"

    def process_of(self, machine: "Machine", command: Sequence[str] = ()) -> tuple[list[str], dict[str, str], str]:
        """Command, environment and folder of a machine's main process, or of another command in it."""

    def edition(self, machine: "Machine") -> bytes:
        """Of the code in its image: another when that has been edited."""

    def output(self, machine: "Machine") -> int:
        """A file descriptor for what it prints."""

    def became(self, machine: "Machine") -> None:
        """It has a new state; its lock is held."""

    def seconds_of(self, change: str) -> float:
        """How long an "image", "boot", "resume", "suspend" or "stop" takes; infinite for one that is stuck."""
