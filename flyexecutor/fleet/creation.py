"""Create one machine at Fly: in which region, with which volume, and once only though its answer be lost. No thread.

Called for calls (`launch`), in advance (`stock`) and for schedules; whoever calls keeps Fly's pace of creates.
"""

import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from flyexecutor.errors import MachinesError, MachineStartError
from flyexecutor.fleet import policy
from flyexecutor.fleet.api import MachinesClient
from flyexecutor.fleet.config import config_of_machine
from flyexecutor.fleet.lists import Lists
from flyexecutor.fleet.machine import Machine
from flyexecutor.lane import Lane

log = logging.getLogger("flyexecutor")


def create_machine(
    machines: MachinesClient,
    lists: Lists,
    lane: Lane,
    name: str,
    region: str | None,
    *,
    keeper: bool,
    launch: bool = True,
    prepared: bool = False,
) -> Machine:
    """Create a machine of a lane, with a free volume if it needs one. Raises MachineStartError that says where."""
    full_name = policy.name_machine(lane.name, name)

    def create(volume_id: str | None, region: str | None) -> Machine:
        config = config_of_machine(lane, keeper=keeper, volume_id=volume_id, prepared=prepared, launch=launch)
        return _create_once(machines, lists, lane, full_name, config, region, launch=launch)

    mounts = lane.config.get("mounts")
    try:
        return _with_volume(machines, mounts[0]["volume"], region, create) if mounts else create(None, region)
    except MachinesError as exc:
        where = f" in {region}" if region else ""
        raise MachineStartError(
            f"no machine could be created{where}: {exc}",
            exc.status,
            exc.request_id,
            phase="create",
            region=region or "",
        ) from None


def _create_once(
    machines: MachinesClient,
    lists: Lists,
    lane: Lane,
    name: str,
    config: Mapping[str, Any],
    region: str | None,
    *,
    launch: bool = True,
) -> Machine:
    """Create a machine; if nobody can say whether that was carried out, look for it by its name."""
    try:
        return machines.create(name, config, region, lane.name, launch=launch)
    except MachinesError as exc:
        if exc.status is None or exc.status >= 500:
            for machine in lists.since():
                if (machine.name, machine.lane) == (name, lane.name):
                    return machine
        raise


def _with_volume(
    machines: MachinesClient, volume: str, region: str | None, create: Callable[[str, str], Machine]
) -> Machine:
    free = list(machines.free_volumes(volume, region))
    random.shuffle(free)  # others create at the same time: take another than they do
    for volume_id, its_region in free:
        try:
            return create(volume_id, its_region)
        except MachinesError as exc:
            if exc.status != 412:
                raise
            log.info("volume %s was taken meanwhile: %s", volume_id, exc)
    where = f" in {region}" if region else ""
    raise MachinesError(f"insufficient volumes: none named {volume!r} is free{where}: fly volumes create {volume}", 422)
