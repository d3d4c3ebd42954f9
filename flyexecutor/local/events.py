"""What has happened to a machine, newest first, as the API shows it. Its machine's lock guards it."""

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

EVENTS_KEPT = 50
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Events:
    """The last events of one machine."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def add(self, kind: str, status: str, source: str, request: Mapping[str, Any] | None = None) -> None:
        """Note one; `request` is what is known about it."""
        event: dict[str, Any] = {
            "id": new_id(),
            "type": kind,
            "status": status,
            "source": source,
            "timestamp": time.time_ns() // 1_000_000,
        }
        if request:
            event["request"] = dict(request)
        self._events.insert(0, event)
        del self._events[EVENTS_KEPT:]

    def newest_first(self) -> list[dict[str, Any]]:
        """All that are kept."""
        return list(self._events)

    def after(self, event_id: str) -> list[dict[str, Any]] | None:
        """Those that came after one, in their order; None if it is not kept."""
        ids = [event["id"] for event in self._events]
        return self._events[: ids.index(event_id)][::-1] if event_id in ids else None


def new_id() -> str:
    """An id of 26 characters that begins with the time, as those of Fly's events and versions (ULID)."""
    number = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10))
    return "".join(CROCKFORD[number >> 5 * place & 31] for place in reversed(range(26)))


def exit_request(
    code: int, *, oom_killed: bool, requested_stop: bool, restarting: bool, restart_count: int
) -> dict[str, Any]:
    """What an exit event says of the end of the main process, whose exit code is that of Popen."""
    number = -code if code < 0 else -1
    return {
        "exit_event": {
            "exit_code": 128 + number if code < 0 else code,
            "guest_exit_code": 0 if code < 0 else code,
            "guest_signal": number,
            "signal": number,
            "oom_killed": oom_killed,
            "requested_stop": requested_stop,
            "restarting": restarting,
            "exited_at": now(),
        },
        "restart_count": restart_count,
    }


def now() -> str:
    """The time as the API writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
