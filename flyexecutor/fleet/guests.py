"""Guests (sizes of machines) by Fly's names, what they may do, and what they cost. Data and pure functions.

Sizes as in Fly's documentation of machine sizing and flyctl's presets, 2026. A guest is the `guest` of Fly's machine
configuration.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from flyexecutor.errors import SettingsError

MEMORY_PER_CPU = {"shared": 256, "performance": 2048}  # MB, of a preset
MOST_PER_CPU = {"shared": 2048, "performance": 8192}  # MB
DEFAULT = "shared-cpu-1x"  # Fly's, when none is named
SUSPEND_MB = 2048  # Fly advises against suspending a larger machine, and suspends none with swap or schedule
MOST_SUSPEND_MB = 4096  # at all, by one page of Fly's; another says 2048
_RETIRED = frozenset({"a10", "l40s", "a100-40gb", "a100-80gb", "gpu_kind", "gpus"})  # Fly, August 2026

GuestName = Literal[
    "shared-cpu-1x",
    "shared-cpu-2x",
    "shared-cpu-4x",
    "shared-cpu-6x",
    "shared-cpu-8x",
    "performance-1x",
    "performance-2x",
    "performance-4x",
    "performance-6x",
    "performance-8x",
    "performance-10x",
    "performance-12x",
    "performance-14x",
    "performance-16x",
]
PRESETS: dict[str, dict[str, Any]] = {}
for _name in get_args(GuestName):
    _prefix, _, _cpus = _name.removesuffix("x").rpartition("-")
    _kind = _prefix.removesuffix("-cpu")
    PRESETS[_name] = {"cpu_kind": _kind, "cpus": int(_cpus), "memory_mb": MEMORY_PER_CPU[_kind] * int(_cpus)}


@dataclass(frozen=True, slots=True)
class Prices:
    """What machines cost while they are started, in US dollars for 30 days; every figure made with it is an estimate.

    Replace it by your own as Fly's price list changes, or as your region has a mark-up.
    """

    shared_cpu: float = 1.94  # with 256 MB
    performance_cpu: float = 31.00  # with 2 GB
    gigabyte: float = 5.00  # of memory beyond that
    transfer: float = (
        0.02  # for each GB that machines send to Upstash (Fly, 2026: in North America and Europe; else more)
    )
    regions: Mapping[str, float] = field(default_factory=dict)  # factors, where a region costs more
    source: str = "https://fly.io/blog/new-vms-more-ram-extra-cpu-and-a-dollar-menu/"
    date: str = "2020, and for shared-cpu-1x about the same in 2026"

    def per_second(self, guest: Mapping[str, Any], region: str = "") -> float | None:
        """Dollars for a second of this guest; None where the price is not known."""
        cpu = {"shared": self.shared_cpu, "performance": self.performance_cpu}.get(guest["cpu_kind"])
        if cpu is None:
            return None
        extra_mb = max(0, guest["memory_mb"] - MEMORY_PER_CPU[guest["cpu_kind"]] * guest["cpus"])
        month = cpu * guest["cpus"] + self.gigabyte * extra_mb / 1024
        return float(month * self.regions.get(region, 1.0) / (30 * 86400))

    def per_second_of(self, config: Mapping[str, Any], region: str) -> float | None:
        """The same for a machine configuration. None as well if it is not known: inside a machine, its own."""
        return self.per_second(guest_of(config), region) if config else None


def read_guest(guest: "str | Mapping[str, Any] | None") -> dict[str, Any] | None:
    """A guest by Fly's name, or as Fly's `guest`, completed; None stays None. Raises SettingsError."""
    if guest is None:
        return None
    if isinstance(guest, str) and guest in PRESETS:
        return dict(PRESETS[guest])
    usual = f"it must be one of {', '.join(PRESETS)}, or Fly's guest as a dict"
    words = {guest} if isinstance(guest, str) else set(guest) if isinstance(guest, Mapping) else set()
    if words & _RETIRED:
        raise SettingsError(f"guest is {guest!r}, and Fly has retired GPUs: {usual}")
    if not isinstance(guest, Mapping):
        raise SettingsError(f"guest is {guest!r}: {usual}")
    completed = {**PRESETS[DEFAULT], **guest}
    if not isinstance(completed["cpu_kind"], str):
        raise SettingsError(f"guest has cpu_kind {completed['cpu_kind']!r}: it must be a text, as 'shared'")
    for word in ("cpus", "memory_mb"):
        if isinstance(completed[word], bool) or not isinstance(completed[word], int) or completed[word] < 1:
            raise SettingsError(f"guest has {word} {completed[word]!r}: it must be a whole number of at least 1")
    if "memory_mb" not in guest:
        completed["memory_mb"] = MEMORY_PER_CPU.get(completed["cpu_kind"], 256) * completed["cpus"]
    if completed["memory_mb"] % 256:
        raise SettingsError(f"guest has memory_mb {completed['memory_mb']!r}: Fly takes multiples of 256")
    return completed


def read_prices(prices: Prices | None) -> Prices:
    """Prices, or those that we know; raises SettingsError."""
    if not isinstance(prices, Prices | None):
        raise SettingsError(f"prices is {prices!r}: it must be a Prices, as Prices(regions={{'gru': 1.5}})")
    return prices or Prices()


def check_suspend_mb(suspend_mb: int) -> None:
    """Raises SettingsError if it is no amount of memory that Fly suspends."""
    if isinstance(suspend_mb, bool) or not isinstance(suspend_mb, int) or not 0 <= suspend_mb <= MOST_SUSPEND_MB:
        raise SettingsError(f"suspend_mb is {suspend_mb!r}: Fly suspends machines with up to {MOST_SUSPEND_MB} MB")


def guest_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The guest of a machine configuration: Fly's default, if it names none."""
    guest: Mapping[str, Any] = config.get("guest") or PRESETS.get(config.get("size") or "", PRESETS[DEFAULT])
    return guest


def can_suspend(guest: Mapping[str, Any], suspend_mb: int = SUSPEND_MB) -> bool:
    """Whether such a machine is to be suspended when it rests; else it is stopped."""
    return bool(guest["memory_mb"] <= suspend_mb)


def larger_guests(guest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The guests with twice the memory, four times, ...: what Fly offers for its cpus."""
    most = MOST_PER_CPU.get(guest["cpu_kind"], 0) * guest["cpus"]
    larger = []
    while guest["memory_mb"] < most:
        guest = {**guest, "memory_mb": min(most, guest["memory_mb"] * 2)}
        larger.append(dict(guest))
    return larger


def name_guest(guest: Mapping[str, Any]) -> str:
    """Fly's name of it, with what differs: `shared-cpu-1x, 512 MB`."""
    prefix = "shared-cpu" if guest["cpu_kind"] == "shared" else guest["cpu_kind"]
    name = f"{prefix}-{guest['cpus']}x"
    usual = PRESETS.get(name, {}).get("memory_mb") == guest["memory_mb"]
    return name if usual else f"{name}, {guest['memory_mb']} MB"
