"""What a machine's configuration may say, and how its values are read. Owns nothing; refuses as Fly does."""

import signal
from collections.abc import Mapping
from typing import Any

from flyexecutor.local.durations import read_duration
from flyexecutor.local.problems import Refused

PRESETS = {
    **{f"shared-cpu-{n}x": ("shared", n, 256 * n) for n in (1, 2, 4, 6, 8)},
    **{f"performance-{n}x": ("performance", n, 2048 * n) for n in (1, 2, 4, 6, 8, 10, 12, 14, 16)},
}  # Fly: name -> cpu kind, cpus, memory in MB
DEFAULT_MEMORY_MB = 256
SCHEDULES = {"hourly": 3600, "daily": 86_400, "weekly": 7 * 86_400, "monthly": 30 * 86_400}  # seconds
SUSPENDED_MEMORY_MB = 2048  # Fly: a guest with more can't be suspended


def check_config(config: object) -> dict[str, Any]:
    """A machine configuration that is complete and consistent. Raises Refused as Fly does."""
    if not isinstance(config, dict) or not config.get("image"):
        raise Refused(400, "config.image is required")
    guest, size = config.get("guest"), config.get("size")
    if guest and size:
        raise Refused(400, "size and guest are mutually exclusive")
    if size and size not in PRESETS:
        raise Refused(422, f"invalid machine size requested, {size!r}")
    if guest:
        if guest.get("cpu_kind", "shared") not in {"shared", "performance"}:
            raise Refused(422, f"invalid config.guest.cpu_kind {guest['cpu_kind']!r}")
        if int(guest.get("memory_mb", 256)) % 256:
            raise Refused(422, f"invalid config.guest.memory_mb {guest['memory_mb']}: must be in a 256 MiB increment")
    restart = (config.get("restart") or {}).get("policy")
    if restart not in {None, "no", "on-failure", "always"}:
        raise Refused(400, f"invalid restart policy {restart!r}")
    if (schedule := config.get("schedule")) and schedule not in SCHEDULES:
        raise Refused(422, f"invalid config.schedule {schedule!r}: must be one of {', '.join(SCHEDULES)}")
    for name, value in (config.get("env") or {}).items():
        if not isinstance(value, str):
            raise Refused(400, f"config.env.{name} must be a string")
    read_duration((config.get("stop_config") or {}).get("timeout") or 0)
    return config


def memory_mb(config: Mapping[str, Any]) -> int | None:
    """The memory that a configuration asks for; None if it names none."""
    if config.get("size"):
        return PRESETS[config["size"]][2]
    told = (config.get("guest") or {}).get("memory_mb")
    return int(told) if told else None


def check_suspendable(config: Mapping[str, Any]) -> None:
    """Raises Refused with the reason why such a machine can't be suspended. [unsure: Fly's words]"""
    guest = config.get("guest") or {}
    memory = memory_mb(config) or DEFAULT_MEMORY_MB
    reasons = {
        f"it has {memory} MB of memory, at most {SUSPENDED_MEMORY_MB} MB can be suspended": memory
        > SUSPENDED_MEMORY_MB,
        "it has swap (init.swap_size_mb)": bool((config.get("init") or {}).get("swap_size_mb")),
        "it has a schedule": bool(config.get("schedule")),
        "it has a GPU": bool(guest.get("gpu_kind") or guest.get("gpus")),
    }
    for reason, holds in reasons.items():
        if holds:
            raise Refused(422, f"unable to suspend machine: {reason}")


def parse_signal(name: str | int) -> int:
    """A signal by name or number."""
    try:
        if isinstance(name, int):
            return signal.Signals(name)
        return signal.Signals(int(name)) if name.isdigit() else signal.Signals[name]
    except (ValueError, KeyError):
        raise Refused(400, f"invalid signal {name!r}") from None
