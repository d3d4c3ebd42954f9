"""Volumes: names, regions and who has one attached. Nothing is mounted here: a machine's process sees no such path.

Whether a volume is attached is read off the machines that live, so that no end of a machine can be forgotten.
"""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flyexecutor.local.events import now
from flyexecutor.local.machine import Machine
from flyexecutor.local.problems import Refused

SIZES_GB = range(1, 501)  # Fly: https://fly.io/docs/volumes/overview/
BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of an app. Raises Refused for one that is larger or smaller than Fly's may be."""

    name: str
    region: str
    size_gb: int = 3
    encrypted: bool = True
    auto_backup_enabled: bool = True
    snapshot_retention: int = 5  # days
    id: str = field(default_factory=lambda: f"vol_{secrets.token_hex(8)}")
    zone: str = field(default_factory=lambda: secrets.token_hex(2))
    created_at: str = field(default_factory=now)

    def __post_init__(self) -> None:
        if self.size_gb not in SIZES_GB:
            raise Refused(400, f"invalid_argument: size_gb must be from 1 to {SIZES_GB[-1]}, not {self.size_gb}")

    def describe(self, machines: Iterable[Machine]) -> dict[str, Any]:
        """The volume as the API shows it; empty, since nothing is mounted."""
        holder = self.holder(machines)
        size = self.size_gb << 30
        blocks = size // BLOCK_BYTES
        return {
            **asdict(self),
            "state": "created",
            "attached_machine_id": holder.id if holder else None,
            "attached_alloc_id": None,
            "fstype": "ext4",
            "block_size": BLOCK_BYTES,
            "blocks": blocks,
            "blocks_free": blocks,
            "blocks_avail": blocks,
            "bytes_total": size,
            "bytes_used": 0,
            "host_status": "ok",
            "type": "local",
        }

    def extended(self, size_gb: int) -> "Volume":
        """The same, larger. Raises Refused for one that would not be."""
        if size_gb <= self.size_gb:
            raise Refused(400, f"invalid_argument: size_gb must be more than the {self.size_gb} that {self.id} has")
        return replace(self, size_gb=size_gb)

    def holder(self, machines: Iterable[Machine]) -> Machine | None:
        """The machine that it is attached to, running or not."""
        living = (machine for machine in machines if machine.state != "destroyed")
        return next((machine for machine in living if mounted(machine.config) == self.id), None)


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
