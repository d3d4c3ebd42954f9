"""Level 3: what a fleet should do. Pure: a snapshot in, actions out; no clock, no randomness, no I/O.

The first policy: a reservation becomes a machine that is stopped, else one that is about to stop, else a new one. A
worker whose machine does not run is buried.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flyexecutor.lane import Exit, Machine

STARTABLE = ("suspended", "stopped", "created")  # in the order of preference: what is soonest there
LEAVING = frozenset({"started", "stopping", "suspending"})  # not a worker's, not on its way: it has just left
GONE = frozenset({"stopped", "suspended", "failed", "destroying", "destroyed", "replaced", "migrated", "launch_failed"})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of a lane at one moment. Redis was read before Fly: a worker seen is older than the list."""

    machines: Sequence[Machine]
    workers: Mapping[str, str]  # machine -> time of its join, opaque
    starts: frozenset[str]  # reservations and machines on their way
    reservations: Sequence[str]  # ours, not yet a machine
    creating: int  # of our machines, asked for and not in the list
    booting: Mapping[str, Exit | None]  # machines that we started and that had not joined: the exit they had before
    max_workers: int


@dataclass(frozen=True, slots=True)
class Start:
    """Start this machine for this reservation; if it still runs, wait first until it has stopped."""

    reservation: str
    machine: Machine


@dataclass(frozen=True, slots=True)
class Create:
    """Create a machine for this reservation."""

    reservation: str


@dataclass(frozen=True, slots=True)
class Bury:
    """This worker's machine does not run: free its calls. `machine` is None if Fly's list lacks it."""

    machine_id: str
    joined: str
    machine: Machine | None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A machine that we started has ended before its worker joined."""

    machine: Machine


Action = Start | Create | Bury | GiveUp


def plan(seen: Snapshot) -> list[Action]:
    """What to do now."""
    by_id = {machine.id: machine for machine in seen.machines}
    actions: list[Action] = []
    for machine_id, joined in seen.workers.items():
        machine = by_id.get(machine_id)
        if machine is None or machine.state in GONE or machine.host_status == "unreachable":
            actions.append(Bury(machine_id, joined, machine))
    for machine_id, exit_before in seen.booting.items():
        machine = by_id.get(machine_id)
        if machine and machine_id in seen.starts and machine.state in GONE and machine.exit != exit_before:
            actions.append(GiveUp(machine))

    free = [m for m in seen.machines if m.id not in seen.workers and m.id not in seen.starts and m.host_status == "ok"]
    ready = sorted((m for m in free if m.state in STARTABLE), key=lambda m: STARTABLE.index(m.state))
    leaving = [m for m in free if m.state in LEAVING]
    made = len(seen.machines) + seen.creating
    for reservation in seen.reservations:
        if ready:
            actions.append(Start(reservation, ready.pop(0)))
        elif made < seen.max_workers or not leaving:
            actions.append(Create(reservation))
            made += 1
        else:
            actions.append(Start(reservation, leaving.pop(0)))
    return actions
