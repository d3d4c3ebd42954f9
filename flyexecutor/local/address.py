"""Where a local Fly is and what lets in: asked for, or as it was when its data was kept, or new."""

import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flyexecutor.local.problems import LocalError

KEPT = "address.json"


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """Ports of 127.0.0.1 (0: any free one), the API's token and Redis' password."""

    port: int
    redis_port: int
    token: str
    password: str

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        """What the settings say, else what is kept in their folder. Raises LocalError if another local Fly has that."""
        kept = _open(Path(settings["keep"])) if settings["keep"] else {}
        return cls(
            port=settings["port"] or kept.get("port", 0),
            redis_port=settings["redis_port"] or kept.get("redis_port", 0),
            token=settings["token"] or kept.get("token") or secrets.token_hex(24),
            password=settings["password"] or kept.get("password") or secrets.token_hex(24),
        )

    def write(self, settings: Mapping[str, Any], port: int, redis_port: int) -> None:
        """Keep it beside the data: queued calls belong to machines that are told this address, and to this token."""
        if not settings["keep"]:
            return
        file = Path(settings["keep"]) / KEPT
        kept = {"port": port, "redis_port": redis_port, "token": self.token, "password": self.password}
        file.touch(mode=0o600)
        file.write_text(json.dumps(kept))


def _open(folder: Path) -> dict[str, Any]:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)  # stays open, and locked, until this process ends
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file = folder / KEPT
        kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    except BlockingIOError:
        raise LocalError(f"{folder} is in use by another local Fly: give each a folder of its own") from None
    except (OSError, ValueError) as exc:
        raise LocalError(f"{folder} can't be used to keep data: {exc}") from None
    return kept
