"""What a fleet should do. Pure: a snapshot in, actions out; no clock, no randomness, no I/O.

A reservation becomes a machine that rests (suspended before stopped: what is soonest there), else one that is about to
rest, else a new one: a keeper while fewer than `warm` are kept, else one that destroys itself. A worker whose machine
does not run is buried; a machine that runs for nobody is stopped; one of an earlier configuration is destroyed.

Redis counts workers and starts when it grants reservations. An emptied one has forgotten them, so what Fly lists and
what we have asked for count, too: no machine is started or created beyond `max_workers` that are awake.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from flyexecutor.fleet.machine import Exit, Machine

STARTABLE = ("suspended", "stopped", "created")  # in the order of preference: what is soonest there
RESTING = frozenset({*STARTABLE, "failed"})
NOT_BEGUN = frozenset({"creating", "created"})  # Fly fetches its image: seconds; it has hung for hours, too
LEAVING = frozenset({"started", "stopping", "suspending"})  # not a worker's, not on its way: it has just left
GONE = frozenset({"stopped", "suspended", "failed", "destroying", "destroyed", "replaced", "migrated", "launch_failed"})
PASSING = frozenset({"creating", "starting", "stopping", "restarting", "suspending", "updating", "replacing"})
STUCK_AFTER = 300.0  # seconds in a passing state (Fly: then it is stuck)
UPDATE_STUCK_AFTER = 600.0  # the same in `updating`
OVERDUE = 3.0  # seconds after which a machine that was started is no longer at rest


@dataclass(frozen=True, slots=True)
class Boot:
    """A machine that we have started, and whose worker had not joined."""

    asked_at: float  # seconds, by the clock of `Snapshot.moment`: when its start was asked for
    exit_before: Exit | None  # how it had ended before
    seen: bool = True  # else its worker had said that it rests, and nobody has looked how it had ended before


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of a lane at one moment: all attributes that `plan` decides by, since it asks nobody.

    Redis was read before Fly: a worker seen is older than the list.
    """

    machines: Sequence[Machine]
    workers: Mapping[str, str]  # machine -> time of its join, opaque
    starts: frozenset[str]  # reservations and machines on their way
    reservations: Sequence[str]  # ours, not yet a machine
    creating: Sequence["Create"]  # under way, or waiting for their moment; the list may have their machines already
    starting: frozenset[str]  # machines whose start we ask for just now, whatever Redis knows of it
    booting: Mapping[str, Boot]  # machines that we started and that had not joined
    avoid: frozenset[str]  # machines that could not be started just now
    max_workers: int
    warm: int  # idle machines that are kept
    boot_timeout: float  # seconds that a machine may run without a worker
    now: float  # seconds since the epoch
    moment: float  # the same moment, by the clock of `Boot.asked_at`


@dataclass(frozen=True, slots=True)
class Start:
    """Start or resume this machine for this reservation; if it still runs, wait first until it rests."""

    reservation: str
    machine: Machine


@dataclass(frozen=True, slots=True)
class Wake:
    """Start or resume this machine, which Redis has handed out: its worker has said that it rests."""

    machine_id: str


@dataclass(frozen=True, slots=True)
class Create:
    """Create a machine for this reservation."""

    reservation: str
    keeper: bool


@dataclass(frozen=True, slots=True)
class GiveBack:
    """There may be no machine for this reservation now: as many as may be are awake."""

    reservation: str


@dataclass(frozen=True, slots=True)
class Bury:
    """This worker's machine does not run: free its calls. `machine` is None if Fly's list lacks it."""

    machine_id: str
    joined: str
    machine: Machine | None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A machine that we started does not run, and its worker had not joined. `machine` is None if it is gone."""

    machine_id: str
    machine: Machine | None
    again: bool  # it ended in order, or somebody stopped, suspended or killed it: the next start may well succeed


@dataclass(frozen=True, slots=True)
class Abandon:
    """The worker of a machine that we started has not joined within `boot_timeout`: count on it no longer.

    Unless it has joined since; nor if it is given up before: of one that the list lacks a get may say that it runs.
    """

    machine_id: str
    machine: Machine | None  # None: Fly's list lacks it
    begun: bool  # Fly has begun to run it; else the delay is no fault of its image


@dataclass(frozen=True, slots=True)
class Stop:
    """This machine runs, and is billed, for nobody."""

    machine: Machine


Action = Start | Create | GiveBack | Bury | GiveUp | Abandon | Stop


def name_machine(lane: str, reservation: str) -> str:
    """The name of the machine that is created for a reservation.

    Fly: names are unique within the app, which makes it the idempotency key of a create.
    """
    return f"fx-{lane}-{reservation.replace('.', '-').replace(':', '-')}"


def plan(seen: Snapshot) -> list[Action]:
    """What to do now."""
    # What is slow comes last: to stop it takes requests, and calls wait for the machines before it.
    return [*_lose(seen), *_supply(seen), *_abandon(seen)]


def _lose(seen: Snapshot) -> list[Action]:
    """What follows from machines that do not run."""
    by_id = {machine.id: machine for machine in seen.machines}
    actions: list[Action] = []
    for machine_id, joined in seen.workers.items():
        machine = by_id.get(machine_id)
        if gone(machine, seen.now):
            actions.append(Bury(machine_id, joined, machine))
    for machine_id, boot in seen.booting.items():
        machine = by_id.get(machine_id)
        if machine_id not in seen.starts or (machine and machine.state not in GONE):
            continue
        if machine and boot.seen and machine.exit != boot.exit_before:
            actions.append(GiveUp(machine_id, machine, again=_passes(machine.exit)))
        elif seen.moment - boot.asked_at > OVERDUE:  # before that the start, or a list that has it, may be on its way
            unseen = None if machine is None or boot.seen else machine.exit
            again = (machine is None or machine.state != "failed") and (unseen is None or _passes(unseen))
            actions.append(GiveUp(machine_id, machine, again=again))
    return actions


def _supply(seen: Snapshot) -> list[Action]:
    """Machines for reservations, and what runs for nobody."""
    actions: list[Action] = []
    ours = [m for m in seen.machines if not m.is_scheduled]  # the others are Fly's to start
    # One that has been created and is not assigned yet is known by its name.
    named = {machine.name: machine.id for machine in ours}
    creating = frozenset(create.reservation for create in seen.creating)

    def machine_of(start: str) -> str:
        return named.get(name_machine(ours[0].lane, start), start) if ours else start

    known = seen.starts | seen.workers.keys() | seen.starting | creating
    taken = {machine_of(start) for start in known}
    free = [m for m in ours if m.id not in taken and m.host_status == "ok"]
    ready = [m for m in free if m.state in STARTABLE and not _boots(m) and m.id not in seen.avoid]
    ready.sort(key=lambda m: (STARTABLE.index(m.state), not m.keeper), reverse=True)
    leaving = [m for m in free if m.state in LEAVING and m.keeper and not lost(m, seen.now) and m.id not in seen.avoid]
    fresh = [create for create in seen.creating if machine_of(create.reservation) == create.reservation]
    made = len(ours) + len(fresh)
    kept = sum(m.keeper for m in ours) + sum(create.keeper for create in fresh)
    awake = {machine_of(start) for start in known - set(seen.reservations)}
    awake |= {machine.id for machine in ours if _is_awake(machine, seen.now)}
    room = seen.max_workers - len(awake)
    for reservation in seen.reservations:
        if room > 0 and ready:
            actions.append(Start(reservation, ready.pop()))
            room -= 1
        elif room > 0 and (made < seen.max_workers or not leaving):
            actions.append(Create(reservation, keeper=kept < seen.warm))
            made += 1
            kept += 1
            room -= 1
        elif leaving:
            actions.append(Start(reservation, leaving.pop(0)))
        else:
            actions.append(GiveBack(reservation))
    awaited = {action.machine.id for action in actions if isinstance(action, Start)}
    running = [m for m in free if m.state == "started" and m.id not in awaited]
    # One that was awaited in vain runs what Redis has forgotten, in the place of calls that wait.
    return actions + [Stop(m) for m in running if m.id in seen.avoid or seen.now - m.changed_at > seen.boot_timeout]


def _abandon(seen: Snapshot) -> list[Action]:
    """What follows from machines whose worker takes too long."""
    by_id = {machine.id: machine for machine in seen.machines}
    slow = [name for name, boot in seen.booting.items() if seen.moment - boot.asked_at > seen.boot_timeout]
    late = [(name, by_id.get(name)) for name in slow if name in seen.starts]
    return [Abandon(name, machine, begun=not (machine and machine.state in NOT_BEGUN)) for name, machine in late]


def retire(
    machines: Sequence[Machine],
    *,
    kinds: Collection[tuple[str, str]],
    lane: str,
    used: frozenset[str],
    rested_before: float,
) -> list[Machine]:
    """The machines that a deploy has left: ours, of this family, older than all of our lane, in one that nobody uses.
    Prepared ones too.

    kinds: our owner and our family, for each key of the ring: a rotation leaves machines as a deploy does.
    rested_before: seconds since the epoch. Machines rest since then by Fly's word: a Redis that was emptied knows of no
    lane that is used.
    """
    deployed_at = min((m.created_at for m in machines if m.lane == lane), default=math.inf)
    family_of = [m for m in machines if (m.owner, m.family) in kinds and not m.is_scheduled]
    old = [m for m in family_of if m.created_at < deployed_at and m.lane not in used]
    return [m for m in old if m.state in RESTING and m.changed_at < rested_before]


def gone(machine: Machine | None, now: float) -> bool:
    """Whether it does not run and will not: Fly does not know it, it has ended, or nobody can count on it."""
    return machine is None or machine.state in GONE or lost(machine, now)


def rests(machine: Machine, now: float) -> bool:
    """Whether it does nothing, and will not begin to by itself."""
    return machine.state in RESTING and (not _boots(machine) or lost(machine, now))


def lost(machine: Machine, now: float) -> bool:
    """Whether its host does not answer, or it hangs in a state: nobody can count on it."""
    limit = UPDATE_STUCK_AFTER if machine.state == "updating" else STUCK_AFTER
    stuck = (machine.state in PASSING or _boots(machine)) and now - machine.changed_at > limit
    return machine.host_status == "unreachable" or stuck


def _is_awake(machine: Machine, now: float) -> bool:
    """Whether it runs, or will by itself, as far as Fly tells. On one that is lost nobody counts any longer."""
    if machine.state in GONE or lost(machine, now):
        return False
    if machine.state == "created":
        return machine.launches
    if now - machine.changed_at <= STUCK_AFTER:
        return True
    # Nobody may stop one of whose host nothing is known. A word that Fly has not had before may be one for rest.
    return machine.host_status == "ok" and (machine.state == "started" or machine.state in PASSING)


def _passes(end: Exit | None) -> bool:
    """Whether what ended a machine is no fault of its image: in order, on request, or killed (but not for memory)."""
    if end is None or end.requested_stop or end.exit_code == 0:
        return end is not None
    return end.signal is not None and end.signal > 0 and not end.oom_killed


def _boots(machine: Machine) -> bool:
    """It was created to boot by itself: a start is refused until it has. Only what was made to rest rests in it."""
    return machine.state == "created" and machine.launches
