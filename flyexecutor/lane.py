"""A machine configuration, the lane that it names, and what that one does and has cost.

Calls that need the same machine (image, guest, environment, key, Redis) share one queue and one fleet. The lane's name
is a keyed hash of that configuration: it stands in Redis keys and in machine metadata and tells nothing of it.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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
    warm: int = 1  # idle machines that are kept; the others are destroyed when they have nothing to do
    suspends: bool = True  # its keepers, when they rest; else they stop
    load_window: float = 10.0  # seconds: for so long a worker is needed after the moment in which it was
    others: "tuple[Lane, ...]" = ()  # the same machines under the other keys of the ring

    def __repr__(self) -> str:
        return f"<Lane {self.name}>"

    @property
    def region(self) -> str:
        """The region that is tried first; empty: Fly chooses."""
        return self.regions[0] if self.regions else ""


@dataclass(frozen=True, slots=True)
class Stats:
    """What the machines of a lane do and have cost, since it is known to Redis (30 days at most)."""

    queued: int
    running: int
    workers: int
    starting: int  # machines on their way
    calls: int  # that have ended
    starts: int  # of machines: creations, starts, resumptions
    useful_seconds: float  # in which calls ran
    billed_seconds: float  # of machines, from their start until they leave; measured by Redis's clock
    sent_bytes: int  # of results and items, from machines to Redis, which Fly bills; in steps of 64 kB
    dollars: float | None = None  # for billed seconds and sent bytes, an estimate; None: the price is not known

    @property
    def billed_over_useful(self) -> float | None:
        """1.0: every second that is paid ran a call (one call at a time)."""
        return self.billed_seconds / self.useful_seconds if self.useful_seconds else None


def name_lane(config: Mapping[str, Any], key: bytes) -> str:
    """Name the lane of a machine configuration: the same everywhere for the same configuration and key."""
    canonical = json.dumps(config, sort_keys=True).encode()
    return hmac.new(key, b"lane\0" + canonical, hashlib.sha256).hexdigest()[:16]
