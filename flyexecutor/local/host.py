"""What machines are told by whoever makes them, and tell it. `apps.Apps` is the one that there is."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flyexecutor.local.machine import Machine


class Host(Protocol):
    """What machines run on."""

    run: Path

    def process_of(self, machine: "Machine") -> tuple[list[str], dict[str, str], str]:
        """Command, environment and folder of a machine's process."""

    def output(self, machine: "Machine") -> int:
        """A file descriptor for what it prints."""

    def became(self, machine: "Machine") -> None:
        """It has a new state; its lock is held."""

    def seconds_of(self, change: str) -> float:
        """How long an "image", "boot", "resume", "suspend" or "stop" takes; infinite for one that is stuck."""

    def stays_created(self) -> bool:
        """Whether a machine that is not launched is still `created` when its image is there."""

    def check_room(self, region: str) -> None:
        """Raises Refused if a stopped machine can't start there."""
