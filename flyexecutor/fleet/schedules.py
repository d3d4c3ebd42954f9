"""Calls that Fly makes by itself, each hour, day, week or month: a scheduled machine for each. No thread.

The call travels in the machine's environment, sealed: it needs no record in Redis that would have to outlive a month.
When Fly starts the machine its worker submits the call (`worker/scheduled.py`), runs it, and the machine stops.

A schedule's machine has a name of its own, and names are unique within an app at Fly: so any number of processes that
declare a schedule at once leave one machine, and what differs replaces what is there by an update of that machine. What
differs has another digest, over the lane and the pickled call. That is the same in each process for a function that
machines import, for lambdas, closures and functions of `__main__`, and for plain arguments; it is not for sets of texts
and for classes of `__main__`. These replace an equal schedule each time: that costs a request and keeps one machine,
while a change that went unnoticed would run what nobody wants.

Ours it is under any key of the ring, and its name at Fly can't change: so it is known by its owner and the schedule's
name, which its metadata tells. A rotation replaces what the machine runs, and leaves no second one beside it.
"""

import base64
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flyexecutor.errors import MachinesError, SettingsError
from flyexecutor.fleet import launch
from flyexecutor.fleet.api import MachinesClient
from flyexecutor.fleet.config import config_of_machine
from flyexecutor.fleet.ledger import OVERTAKEN
from flyexecutor.fleet.lists import Lists
from flyexecutor.fleet.machine import SCHEDULE_DIGEST_KEY, SCHEDULE_FUNCTION_KEY, SCHEDULE_KEY, Machine
from flyexecutor.lane import Lane
from flyexecutor.names import LONGEST, path_of, shown
from flyexecutor.options import Options
from flyexecutor.payload import pickles
from flyexecutor.payload.trust import Trust
from flyexecutor.store.calls import Store

Every = Literal["hourly", "daily", "weekly", "monthly"]
SECONDS: dict[str, int] = {
    "hourly": 3600,
    "daily": 86_400,
    "weekly": 7 * 86_400,
    "monthly": 30 * 86_400,
}  # by Fly's words, about
ENDING = frozenset({"destroying", "destroyed"})
MOST_BYTES = 64 * 1024  # of a call in an environment variable (Linux: one has at most 128 kB)
PATIENCE = 60.0  # seconds for a machine that is about to come to rest, or to its end

log = logging.getLogger("flyexecutor")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A call that Fly makes by itself. `call_ids` are its last runs, the newest first: `executor.future(id)`."""

    name: str
    every: str
    machine_id: str
    state: str  # of the machine, in Fly's words
    call_ids: Sequence[str]
    function: str = ""
    next_at: float = 0.0  # seconds since the epoch: when its next run is due, about; Fly may be late, and may miss it


class Schedules:
    """The schedules of one executor's app."""

    def __init__(self, store: Store, api: MachinesClient, lists: Lists, trust: Trust, owners: Sequence[str]) -> None:
        self._store = store
        self._api = api
        self._lists = lists
        self._trust = trust
        self._owners = owners

    def add(
        self,
        lane: Lane,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        every: str,
        name: str | None,
        at_once: bool,
        options: Options,
        result_ttl: float,
    ) -> Schedule:
        """See `FlyMachineExecutor.schedule`."""
        if not isinstance(every, str) or every not in SECONDS:
            raise SettingsError(f"every is {every!r}: it must be one of {', '.join(SECONDS)}")
        if name is None:
            name = options.name_call(fn)
            if name.endswith("<lambda>"):
                raise SettingsError("a lambda has no name of its own: give its schedule one with name=...")
        if not isinstance(name, str) or not name or shown(name) != name:
            raise SettingsError(f"name is {name!r}: it must be a text of up to {LONGEST} characters, on one line")
        with pickles.shipping(options.ship):
            dumped = pickles.dump_call(fn, args, kwargs, options.manner())
        sealed = self._trust.seal_part(f"schedule {name}", dumped.body, dumped.encoding)
        if len(sealed) > MOST_BYTES:
            raise SettingsError(
                f"the call is {len(sealed):,} bytes when pickled, at most {MOST_BYTES:,} fit into a machine's "
                "environment: have the function fetch its data"
            )
        scheduled = {
            "name": name,
            "sealed": base64.b64encode(sealed).decode(),
            "retries": options.retry.lost,
            "timeout": options.timeout or 0.0,
            "result_ttl": result_ttl,
        }
        config = config_of_machine(lane, keeper=True, volume_id=None, rests=False, scheduled=json.dumps(scheduled))
        config["schedule"] = every
        # Not the region: each process of a web app may have another one, and would take the machine to its own.
        digest = hashlib.sha256(json.dumps([lane.name, every, scheduled]).encode()).hexdigest()[:32]
        its_keys = {SCHEDULE_KEY: name, SCHEDULE_FUNCTION_KEY: path_of(fn), SCHEDULE_DIGEST_KEY: digest}
        config["metadata"].update(its_keys)
        return self._describe(self._ensure(config, lane, at_once=at_once))

    def list(self) -> "list[Schedule]":
        """See `FlyMachineExecutor.schedules`."""
        return [self._describe(machine) for machine in self._machines()]

    def remove(self, *names: str) -> None:
        """See `FlyMachineExecutor.unschedule`; all of them, or none."""
        found = {machine.schedule_name: machine for machine in self._machines()}
        for name in names:
            if name not in found:
                known = ", ".join(sorted(found)) or "none"
                raise SettingsError(f"no schedule is named {name!r}: there is {known}")
        for name in names:
            self._api.destroy(found[name].id, force=True)

    def _machines(self) -> Sequence[Machine]:
        return [
            machine
            for machine in self._lists.since()
            if machine.is_scheduled and machine.owner in self._owners and machine.state not in ENDING
        ]

    def _ensure(self, config: Mapping[str, Any], lane: Lane, *, at_once: bool) -> Machine:
        """The machine with this configuration: it is there, or becomes so, or is created."""
        metadata = config["metadata"]
        # The same for both orders of a ring: processes of before and after a step of the rotation may declare at once.
        whose = f"{min(self._owners)} {metadata[SCHEDULE_KEY]}"
        full_name = f"fx-schedule-{hashlib.sha256(whose.encode()).hexdigest()[:16]}"
        machine = self._known(full_name, metadata[SCHEDULE_KEY])
        if machine and machine.schedule_digest == metadata[SCHEDULE_DIGEST_KEY]:
            return machine
        store = self._store
        with store.one_at_a_time(full_name):
            machine = self._known(full_name, metadata[SCHEDULE_KEY])
            if machine is None:
                machine = self._listed(metadata[SCHEDULE_KEY]) or self._create(full_name, config, lane, at_once=at_once)
                store.note_scheduled(full_name, machine.id)
            if machine.schedule_digest != metadata[SCHEDULE_DIGEST_KEY]:
                before, function = shown(machine.schedule_function), metadata[SCHEDULE_FUNCTION_KEY]
                level, how = logging.INFO, "since what it was declared with differs"
                if before != function:  # which may have the same name by mistake
                    level, how = logging.WARNING, f"by one of {function}"
                log.log(level, "the schedule %r of %s is replaced %s", metadata[SCHEDULE_KEY], before, how)
                machine = self._update(machine, config)
            return machine

    def _known(self, full_name: str, name: str) -> Machine | None:
        """The machine of this schedule, if Redis knows its id. Whoever can write there may have told another's."""
        known = self._store.scheduled(full_name)
        machine = self._api.get(known) if known else None
        ours = machine and machine.owner in self._owners and machine.schedule_name == name
        return machine if machine and ours and machine.state not in ENDING else None

    def _listed(self, name: str) -> Machine | None:
        """The machine of this schedule, if Redis has forgotten it, or knew it by another name: see above."""
        return next((machine for machine in self._machines() if machine.schedule_name == name), None)

    def _create(self, full_name: str, config: Mapping[str, Any], lane: Lane, *, at_once: bool) -> Machine:
        """Create the machine, or answer the one that has its name."""
        for _ in range(2):
            time.sleep(self._store.pace_create(launch.CREATE_EVERY, launch.CREATE_BURST))
            try:
                # Not launched (Fly: skip_launch) it first runs at its time, which counts from now in any case.
                machine = self._api.create(full_name, config, lane.region or None, lane.name, launch=at_once)
            except MachinesError as exc:
                # It is there and of another lane, or nobody can say whether it has been created.
                if not (exc.status is None or exc.status >= 500 or exc.status == 409):
                    raise
                made = [machine for machine in self._lists.since() if machine.name == full_name]
                if not made:
                    raise
                machine = made[0]
            if machine.state not in ENDING:
                return machine
            self._await(machine, "destroyed")
        raise MachinesError(
            f"the machine {machine.id} of an earlier schedule of this name is {machine.state} and keeps its name: "
            "declare the schedule again later"
        )

    def _update(self, machine: Machine, config: Mapping[str, Any]) -> Machine:
        try:
            return self._api.update(machine.id, config)
        except MachinesError as exc:
            if exc.status not in OVERTAKEN:
                raise
        self._await(machine, "stopped")  # its image is still fetched, say
        return self._api.update(machine.id, config)

    def _await(self, machine: Machine, state: str) -> None:
        try:
            self._api.wait(machine, state, PATIENCE)
        except MachinesError as exc:
            if exc.status not in {404, 408}:
                raise

    def _describe(self, machine: Machine) -> Schedule:
        every = SECONDS.get(machine.schedule, 0)
        passed = time.time() - machine.created_at
        return Schedule(
            machine.schedule_name,
            machine.schedule,
            machine.id,
            machine.state,
            self._store.runs(machine.schedule_name),
            shown(machine.schedule_function),
            machine.created_at + (passed // every + 1) * every if every else 0.0,
        )
