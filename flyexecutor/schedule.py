"""Level 7: calls that Fly makes by itself, each hour, day, week or month: a scheduled machine for each. No thread.

The call travels in the machine's environment, sealed: it needs no record in Redis that would have to outlive a month.
When Fly starts the machine its worker submits the call (`worker/scheduled.py`), runs it, and the machine stops.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flyexecutor import payload
from flyexecutor.client import Client
from flyexecutor.errors import SettingsError
from flyexecutor.lane import SCHEDULE_KEY, Lane
from flyexecutor.launch import create_once
from flyexecutor.machine_config import config_of_machine
from flyexecutor.options import Options
from flyexecutor.settings import SCHEDULED_VARIABLE
from flyexecutor.trust import Trust

EVERY = ("hourly", "daily", "weekly", "monthly")  # Fly's words
ENDING = frozenset({"destroying", "destroyed"})
MOST_BYTES = 64 * 1024  # of a call in an environment variable (Linux: one has at most 128 kB)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A call that Fly makes by itself. `call_ids` are its last runs, the newest first: `executor.future(id)`."""

    name: str
    every: str
    machine_id: str
    state: str  # of the machine, in Fly's words
    call_ids: Sequence[str]


class Schedules:
    """The schedules of one executor's app."""

    def __init__(self, client: Client, trust: Trust, owner: str) -> None:
        self._client = client  # asked for its store and machines each time: after a fork it has others
        self._trust = trust
        self._owner = owner

    def add(
        self,
        lane: Lane,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        every: str,
        name: str | None,
        options: Options,
        result_ttl: float,
    ) -> Schedule:
        """See `FlyMachineExecutor.schedule`."""
        if every not in EVERY:
            raise SettingsError(f"every is {every!r}: it must be one of {', '.join(EVERY)}")
        name = name or str(getattr(fn, "__qualname__", repr(fn)))
        if any(known.name == name for known in self.list()):
            raise SettingsError(f"a schedule named {name!r} is there already: unschedule it first, or choose a name")
        with payload.shipping(options.ship):
            dumped = payload.dump_call(fn, args, kwargs, options.manner())
        sealed = self._trust.seal_part(f"schedule {name}", dumped.body, dumped.encoding)
        if len(sealed) > MOST_BYTES:
            raise SettingsError(
                f"the call is {len(sealed):,} bytes when pickled, at most {MOST_BYTES:,} fit into a machine's "
                "environment: have the function fetch its data"
            )
        told = {
            "name": name,
            "sealed": base64.b64encode(sealed).decode(),
            "retries": options.retry.lost,
            "timeout": options.timeout or 0.0,
            "result_ttl": result_ttl,
        }
        config = config_of_machine(lane, keeper=True, volume_id=None, rests=False)
        config["env"][SCHEDULED_VARIABLE] = json.dumps(told)
        config["metadata"][SCHEDULE_KEY] = name
        config["schedule"] = every
        full_name = f"fx-schedule-{hashlib.sha256(f'{self._owner} {name}'.encode()).hexdigest()[:16]}"
        client = self._client
        machine = create_once(client.machines, client.lists, lane, full_name, config, lane.region or None)
        return Schedule(name, every, machine.id, machine.state, ())

    def list(self) -> "list[Schedule]":
        """See `FlyMachineExecutor.schedules`."""
        return [
            Schedule(m.schedule_name, m.schedule, m.id, m.state, self._client.store.runs(m.schedule_name))
            for m in self._client.lists.since()
            if m.schedule and m.owner == self._owner and m.state not in ENDING
        ]

    def remove(self, name: str) -> None:
        """See `FlyMachineExecutor.unschedule`."""
        known = self.list()
        found = [schedule for schedule in known if schedule.name == name]
        if not found:
            names = ", ".join(schedule.name for schedule in known) or "none"
            raise SettingsError(f"no schedule is named {name!r}: there is {names}")
        for schedule in found:
            self._client.machines.destroy(schedule.machine_id, force=True)
