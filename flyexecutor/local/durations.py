"""Durations as Go writes and reads them, since that is how the API has them. Owns nothing.

Fly's Go client has them as `fly.Duration`: a JSON number is nanoseconds, text needs a unit, an answer is text.
"""

import re

from flyexecutor.local.problems import Refused

UNITS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "µs": 10**3, "ns": 1}
TERM = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|m|s|us|µs|ns)")
LONGEST = 2**63 - 1  # nanoseconds


def read_duration(duration: object) -> int:
    """Nanoseconds of "1m30s" or of a number of nanoseconds. Raises Refused for anything else."""
    if isinstance(duration, int | float) and not isinstance(duration, bool) and 0 <= duration <= LONGEST:
        return int(duration)
    text = duration if isinstance(duration, str) else ""
    terms = TERM.findall(text)
    if text != "0" and (not terms or "".join(number + unit for number, unit in terms) != text):
        raise _invalid(duration)
    nanoseconds = sum(float(number) * UNITS[unit] for number, unit in terms)
    if nanoseconds > LONGEST:
        raise _invalid(duration)
    return round(nanoseconds)


def write_duration(nanoseconds: int) -> str:
    """As an answer of the API has it: "5s", "1m30s", "100ms"."""
    if nanoseconds < UNITS["s"]:
        unit = next((unit for unit in ("ms", "µs", "ns") if nanoseconds >= UNITS[unit]), "s")
        return f"{_decimal(nanoseconds / UNITS[unit])}{unit}"
    hours, rest = divmod(nanoseconds, UNITS["h"])
    minutes, rest = divmod(rest, UNITS["m"])
    larger = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{larger}{_decimal(rest / UNITS['s'])}s"


def to_seconds(duration: object) -> float:
    """Seconds of a duration. Raises Refused if it is none."""
    return read_duration(duration) / UNITS["s"]


def parse_duration(duration: str | None, default: float) -> float:
    """Seconds of what a query says: there a number without a unit is seconds."""
    if not duration:
        return default
    return float(duration) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", duration) else to_seconds(duration)


def _decimal(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")


def _invalid(duration: object) -> Refused:
    return Refused(400, f"invalid_argument: invalid duration {str(duration)[:60]!r}")
