"""Level 1: a machine configuration, the lane that it names, and the machines that Fly has for it.

Calls that need the same machine (image, guest, environment, key, Redis) share one queue and one fleet. The lane's name
is a keyed hash of that configuration: it stands in Redis keys and in machine metadata and tells nothing of it.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

METADATA_KEY = "flyexecutor"  # machines of ours carry it, with their lane as its value
DEFAULT_GUEST = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}  # Fly's, when none is named
MOST_MB = {"shared": 2048, "performance": 8192}  # for each cpu, by its kind (Fly's documentation of machine sizing)


@dataclass(frozen=True, slots=True, repr=False)
class Lane:
    """The machine configuration of a fleet. `regions` and `max_workers` are where and how many, not what: no part of
    the name.
    """

    name: str  # 16 hex digits
    config: Mapping[str, Any]  # the `config` of Fly's create call
    regions: Sequence[str]  # tried in this order; empty: Fly chooses
    max_workers: int
    concurrency: int  # calls that one machine runs at a time
    boot_timeout: float  # seconds from start to join

    def __repr__(self) -> str:
        return f"<Lane {self.name}>"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a machine last ended, from its newest exit event."""

    exit_code: int | None
    signal: int | None  # -1: none
    oom_killed: bool
    at: int  # ms since the epoch

    def __str__(self) -> str:
        if self.oom_killed:
            return "out of memory (oom_killed)"
        if self.signal is not None and self.signal > 0:
            return f"signal {self.signal}"
        return f"exit code {self.exit_code}"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as the Machines API describes it; only what we use."""

    id: str
    name: str
    state: str
    region: str
    instance_id: str  # changes with each update
    host_status: str
    exit: Exit | None


def name_lane(config: Mapping[str, Any], key: bytes) -> str:
    """Name the lane of a machine configuration: the same everywhere for the same configuration and key."""
    canonical = json.dumps(config, sort_keys=True).encode()
    return hmac.new(key, b"lane\0" + canonical, hashlib.sha256).hexdigest()[:16]


def larger_guests(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The guests of a machine configuration with twice the memory, four times, ...: what Fly offers for its cpus."""
    guest = {**DEFAULT_GUEST, **(config.get("guest") or {})}
    most = MOST_MB.get(guest["cpu_kind"], 0) * guest["cpus"]
    larger = []
    while guest["memory_mb"] < most:
        guest = {**guest, "memory_mb": min(most, guest["memory_mb"] * 2)}
        larger.append(guest)
    return larger
