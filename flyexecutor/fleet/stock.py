"""The machines of an app as their owner sees them: what there is, what it costs, stock in advance, orphans.

Called by users, never by a call's way. No thread; each function asks Redis and the Machines API and returns.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from flyexecutor.errors import MachinesError, MachineStartError
from flyexecutor.fleet import launch, policy
from flyexecutor.fleet.api import MachinesClient
from flyexecutor.fleet.creation import create_machine
from flyexecutor.fleet.guests import Prices, name_guest
from flyexecutor.fleet.ledger import OVERTAKEN
from flyexecutor.fleet.lists import Lists
from flyexecutor.fleet.machine import Machine
from flyexecutor.lane import Lane, Stats
from flyexecutor.store.calls import Store

APPEARS_WITHIN = 10.0  # seconds: a machine that was just created may be unknown to a get for a moment
FETCHED_WITHIN = 15.0  # seconds after which a machine that waits in `created` can be started: its image is there
ENDED = policy.GONE - {"suspended", "stopped"}
WAIT_EVERY = 1.0  # seconds between two waits for one machine (Fly's documented rate limit)
ORPHAN_AFTER = 3600.0  # seconds without a call in its lane, after which a machine that rests is an orphan
RUNS_FOR_NOBODY = 300.0  # seconds that a machine may run without a worker
RESTS_WITHIN = 3.0  # seconds: one that has run for long, and has just left its lane, is about to rest

log = logging.getLogger("flyexecutor")


@dataclass(frozen=True, slots=True)
class Prepared:
    """How far `prepare` is."""

    there: int  # machines
    made: Sequence[str] = ()  # the ids of those that it has made
    ready: int = 0  # those that rest


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """A machine of ours."""

    id: str
    name: str
    state: str  # Fly's word
    region: str
    guest: str
    lane: str
    keeper: bool  # it rests when it has nothing to do; else it destroys itself
    billed_seconds: float  # as far back as Fly's events tell
    dollars: float | None  # for these, an estimate
    schedule: str  # hourly, ...; empty: none
    changed_at: float  # seconds since the epoch: when its state changed last


class Stock:
    """The machines of one executor's app."""

    def __init__(
        self, store: Store, api: MachinesClient, lists: Lists, prices: Prices, owners: Collection[str]
    ) -> None:
        self._store = store
        self._api = api
        self._lists = lists
        self._prices = prices
        self._owners = owners  # of the machines that are ours

    def stats(self, lane: Lane) -> Stats:
        """See `FlyMachineExecutor.stats`."""
        stats = self._store.meter(lane.name)
        price = self._prices.per_second_of(lane.config, lane.region)
        if price is None:
            return stats
        return replace(stats, dollars=price * stats.billed_seconds + self._prices.transfer * stats.sent_bytes / 1e9)

    def machines(self) -> list[MachineInfo]:
        """See `FlyMachineExecutor.machines`."""
        return [self._describe(machine) for machine in self._lists.since()]

    def prepare(self, lane: Lane, number: int, timeout: float, tell: Callable[[Prepared], None]) -> None:
        """See `FlyMachineExecutor.prepare`. tell: gets how far it is, at each step."""
        deadline = time.monotonic() + timeout
        listed = [m for m in self._lists.since() if m.lane == lane.name]
        kept = [m for m in listed if m.keeper and not m.is_scheduled]
        now = self._store.now()
        kept = [m for m in kept if m.state not in {"failed", "destroying"} and not policy.lost(m, now)]
        # One that can be suspended boots now, warms up and rests; another boots when it is needed: once in each case.
        boots = lane.suspends
        there = len(kept)
        tell(Prepared(there))
        # Who prepares at the same time, or again after a lost answer, takes the same names: one machine for each.
        taken = {m.name for m in listed}
        names = (name for n in itertools.count(1) if policy.name_machine(lane.name, name := f"stock-{n}") not in taken)
        while len(kept) < number:
            wait = self._store.pace_create(launch.CREATE_EVERY, launch.CREATE_BURST)
            if time.monotonic() + wait > deadline:
                raise MachineStartError(
                    f"{len(kept)} of {number} machines were made within {timeout:g} s: Fly allows one a second; give "
                    "prepare more time"
                )
            time.sleep(wait)
            region = lane.region or None
            machine = create_machine(
                self._api, self._lists, lane, next(names), region, keeper=True, launch=boots, prepared=True
            )
            if machine.state not in ENDED:  # one that has just ended may still have its name
                kept.append(machine)
                tell(Prepared(len(kept), [machine.id for machine in kept[there:]]))
        for ready, machine in enumerate(kept, 1):
            self._await_rest(machine, lane, deadline, boots=boots)
            tell(Prepared(len(kept), [machine.id for machine in kept[there:]], ready))

    def reap(self, older_than: float, *, dry_run: bool = False) -> list[MachineInfo]:
        """See `FlyMachineExecutor.reap`. dry_run: answer what would be destroyed, and destroy nothing."""
        orphans = self._orphans(older_than)
        if any(machine.state in policy.LEAVING for machine in orphans):
            time.sleep(RESTS_WITHIN)
            still = {machine.id for machine in self._orphans(older_than)}
            orphans = [machine for machine in orphans if machine.id in still]
        return [self._describe(machine) for machine in orphans if dry_run or self._destroy(machine)]

    def _orphans(self, older_than: float) -> list[Machine]:
        used = self._store.lanes_since(older_than)
        now = self._store.now()
        orphans = []
        for machine in self._lists.since():
            if machine.is_scheduled or machine.owner not in self._owners:
                continue
            unused = machine.lane not in used and now - machine.changed_at > older_than
            rests = policy.rests(machine, now) and unused
            runs = machine.state in policy.LEAVING and now - machine.changed_at > RUNS_FOR_NOBODY
            if rests or (runs and not self._store.is_counted_on(machine.lane, machine.id)):
                orphans.append(machine)
        return orphans

    def _destroy(self, machine: Machine) -> bool:
        try:
            self._api.destroy(machine.id, force=machine.state in policy.LEAVING)
        except MachinesError as exc:
            if exc.status in OVERTAKEN:
                log.info("machine %s is no orphan any longer: %s", machine.id, exc)  # somebody has started it
            elif machine.host_status != "ok":
                log.warning("machine %s is an orphan and stays for now: %s", machine.id, exc)
            else:
                raise
            return False
        log.info("machine %s (%s) was an orphan and is destroyed", machine.id, machine.state)
        return True

    def _await_rest(self, machine: Machine, lane: Lane, deadline: float, *, boots: bool) -> None:
        """Return when a machine rests and can be started; if it boots first, after that."""
        since = time.monotonic()
        while time.monotonic() < deadline:
            if self._store.is_worker(lane.name, machine.id) and self._store.meter(lane.name).running:
                return  # it has found work already
            seen = self._api.get(machine.id)
            age = time.monotonic() - since
            if seen is None or seen.state in ENDED or _failed(seen):
                if seen or age > APPEARS_WITHIN:
                    raise MachineStartError(
                        f"machine {machine.id} ended before it could rest: {seen.exit if seen else 'it is gone'}; see "
                        "its log (fly logs)",
                        phase="boot",
                    )
            elif seen.state in {"suspended", "stopped"} or (not boots and age > FETCHED_WITHIN):
                return
            asked_at = time.monotonic()
            left = min(10.0, deadline - asked_at, math.inf if boots else FETCHED_WITHIN - age)
            try:
                self._api.wait(seen or machine, "suspended" if boots else "stopped", max(1.0, left))
            except MachinesError as exc:
                if exc.status not in {404, 408}:
                    raise
                time.sleep(max(0.0, asked_at + WAIT_EVERY - time.monotonic()))
        raise MachineStartError(f"machine {machine.id} did not come to rest in time: see its log", phase="join")

    def _describe(self, machine: Machine) -> MachineInfo:
        price = self._prices.per_second(machine.guest, machine.region) if machine.guest else None
        return MachineInfo(
            id=machine.id,
            name=machine.name,
            state=machine.state,
            region=machine.region,
            guest=name_guest(machine.guest) if machine.guest else "",
            lane=machine.lane,
            keeper=machine.keeper,
            billed_seconds=machine.billed_seconds,
            dollars=None if price is None else price * machine.billed_seconds,
            schedule=machine.schedule,
            changed_at=machine.changed_at,
        )


def _failed(machine: Machine) -> bool:
    return machine.state == "stopped" and machine.exit is not None and bool(machine.exit.exit_code)
