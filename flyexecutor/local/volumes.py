"""Volumes: names, regions and who has one attached. Nothing is mounted here: a machine's process sees no such path.

Whether a volume is attached is read off the machines that live, so that no end of a machine can be forgotten.
"""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flyexecutor.local.machine import Machine
from flyexecutor.local.problems import Refused

DEFAULT_SIZE_GB = 3


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of an app."""

    name: str
    region: str
    size_gb: int = DEFAULT_SIZE_GB
    id: str = field(default_factory=lambda: f"vol_{secrets.token_hex(8)}")

    def describe(self, machines: Iterable[Machine]) -> dict[str, Any]:
        """The volume as the API shows it."""
        holder = self.holder(machines)
        return {**asdict(self), "state": "created", "attached_machine_id": holder.id if holder else None}

    def holder(self, machines: Iterable[Machine]) -> Machine | None:
        """The machine that it is attached to, running or not."""
        return next((one for one in machines if one.state != "destroyed" and mounted(one.config) == self.id), None)


def mounted(config: Mapping[str, Any]) -> str | None:
    """The id of the volume that a configuration mounts."""
    mounts = config.get("mounts") or [{}]
    volume: str | None = mounts[0].get("volume")
    return volume


def find_mounted(
    config: Mapping[str, Any], volumes: Mapping[str, Volume], machines: Iterable[Machine], machine_id: str | None = None
) -> Volume | None:
    """The volume that a configuration mounts. Raises Refused if there is none such, or another machine has it."""
    mounts = config.get("mounts") or []
    if not mounts:
        return None
    if len(mounts) > 1:
        raise Refused(422, f"config.mounts names {len(mounts)} volumes, a machine can have one")
    if not mounts[0].get("path"):
        raise Refused(422, "config.mounts needs a path")
    volume = volumes.get(mounted(config) or "")
    if volume is None:
        raise Refused(422, f"volume {mounted(config)!r} does not exist")
    holder = volume.holder(machines)
    if holder and holder.id != machine_id:
        raise Refused(412, f"volume {volume.id} is attached to machine {holder.id}")
    return volume


def check_region(volume: Volume | None, region: str) -> None:
    """Raises Refused if a machine of a region can't have the volume."""
    if volume and volume.region != region:
        raise Refused(422, f"volume {volume.id} is in region {volume.region!r}, the machine in {region!r}")
