"""What machines are told by whoever makes them, and tell it. `apps.Apps` is the one that there is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from flyexecutor.local.faults import Faults
from flyexecutor.local.pace import Pace


class Hosted(Protocol):
    """A machine, as its host sees it: `machine.Machine` is the one that there is."""

    id: str
    app: str
    region: str
    state: str
    instance_id: str
    private_ip: str
    config: dict[str, Any]
    secrets: Mapping[str, str]


class Host(Protocol):
    """What machines run on."""

    run: Path
    faults: Faults
    pace: Pace

    def process_of(self, machine: Hosted, command: Sequence[str] = ()) -> tuple[list[str], dict[str, str], str]:
        """Command, environment and folder of a machine's main process, or of another command in it."""

    def edition(self, machine: Hosted) -> bytes:
        """Of the code in its image: another when that has been edited."""

    def output(self, machine: Hosted) -> int:
        """A file descriptor for what it prints."""

    def became(self, machine: Hosted) -> None:
        """It has a new state; its lock is held."""

    def seconds_of(self, change: str) -> float:
        """How long an "image", "boot", "resume", "suspend" or "stop" takes; infinite for one that is stuck."""
