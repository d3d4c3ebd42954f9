"""What a machine's configuration may say, and how its values are read. Owns nothing; refuses as Fly does."""

import signal
from collections.abc import Mapping
from typing import Any

from flyexecutor.local.fields import read_config
from flyexecutor.local.files import check_files
from flyexecutor.local.problems import Refused

PRESETS = {
    **{f"shared-cpu-{n}x": ("shared", n, 256 * n) for n in (1, 2, 4, 6, 8)},
    **{f"performance-{n}x": ("performance", n, 2048 * n) for n in (1, 2, 4, 6, 8, 10, 12, 14, 16)},
}  # Fly: name -> cpu kind, cpus, memory in MB
DEFAULT_MEMORY_MB = 256
SCHEDULES = {"hourly": 3600, "daily": 86_400, "weekly": 7 * 86_400, "monthly": 30 * 86_400}  # seconds


def check_config(given: object) -> dict[str, Any]:
    """A machine configuration that is complete and consistent, in Fly's form. Raises Refused as Fly does."""
    if not isinstance(given, dict) or not given.get("image"):
        raise _invalid("config.image is required")
    config: dict[str, Any] = read_config("config", given)
    guest, size = config.get("guest", {}), config.get("size")
    if guest and size:
        raise _invalid("size and guest are mutually exclusive")
    if size and size not in PRESETS:
        raise Refused(422, f"invalid machine size requested, {size!r}")
    if guest.get("gpu_kind") or guest.get("gpus"):
        raise _invalid("config.guest asks for a GPU (gpu_kind, gpus): Fly has none any more")
    if guest.get("cpu_kind", "shared") not in {"shared", "performance"}:
        raise Refused(422, f"invalid config.guest.cpu_kind {guest['cpu_kind']!r}")
    if guest.get("memory_mb", 256) % 256 or guest.get("memory_mb", 256) < 0:
        raise Refused(422, f"invalid config.guest.memory_mb {guest['memory_mb']}: must be in a 256 MiB increment")
    restart = config.get("restart", {}).get("policy", "")
    if restart not in {"", "no", "on-failure", "always"}:
        raise _invalid(f"restart policy {restart!r}")
    if (schedule := config.get("schedule")) and schedule not in SCHEDULES:
        raise Refused(422, f"invalid config.schedule {schedule!r}: must be one of {', '.join(SCHEDULES)}")
    parse_signal(config.get("stop_config", {}).get("signal") or "SIGINT")
    check_files(config.get("files", ()))
    return config


def memory_mb(config: Mapping[str, Any]) -> int | None:
    """The memory that a configuration asks for; None if it names none."""
    if config.get("size"):
        return PRESETS[config["size"]][2]
    return config.get("guest", {}).get("memory_mb") or None


def check_suspendable(config: Mapping[str, Any], most_mb: int) -> None:
    """Raises Refused with the reason why such a machine can't be suspended. [unsure: Fly's words]"""
    memory = memory_mb(config) or DEFAULT_MEMORY_MB
    reasons = {
        f"it has {memory} MB of memory, at most {most_mb} MB can be suspended": memory > most_mb,
        "it has swap (init.swap_size_mb)": bool(config.get("init", {}).get("swap_size_mb")),
        "it has a schedule": bool(config.get("schedule")),
    }
    for reason, holds in reasons.items():
        if holds:
            raise Refused(412, f"failed_precondition: unable to suspend machine: {reason}")


def parse_signal(name: str | int) -> int:
    """A signal by name or number."""
    try:
        if isinstance(name, int):
            return signal.Signals(name)
        return signal.Signals(int(name)) if name.isdigit() else signal.Signals[name]
    except (ValueError, KeyError):
        raise _invalid(f"invalid signal {name!r}") from None


def _invalid(text: str) -> Refused:
    return Refused(400, f"invalid_argument: {text}")
