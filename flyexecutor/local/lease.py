"""A machine's lease: while somebody holds it, others can't change the machine."""

import secrets
import threading
import time
from typing import Any

from flyexecutor.local.problems import Refused


class Lease:
    """Who may change one machine, and until when."""

    def __init__(self, machine_id: str) -> None:
        self._machine_id = machine_id
        self._lock = threading.RLock()
        self._held: tuple[str, float, str] | None = None  # nonce, expiry, description

    @property
    def nonce(self) -> str | None:
        """The holder's, while it is held."""
        held = self._held
        return held[0] if held and held[1] > time.time() else None

    def take(self, ttl: float, description: str, nonce: str | None) -> None:
        """Take it, or with its nonce make it last longer."""
        with self._lock:
            if self.nonce not in {None, nonce}:
                raise Refused(409, "lease currently held by another owner")
            self._held = (self.nonce or secrets.token_hex(8), time.time() + ttl, description)

    def describe(self, instance_id: str) -> dict[str, Any]:
        """The lease as the API shows it."""
        held = self._held
        if held is None or self.nonce is None:
            raise Refused(404, "lease not found")
        return {
            "nonce": held[0],
            "expires_at": int(held[1]),
            "owner": "local",
            "description": held[2],
            "version": instance_id,
        }

    def check(self, nonce: str | None) -> None:
        """Refuse a change by somebody who does not hold it."""
        held = self._held
        if held and self.nonce not in {None, nonce}:
            text = f"lease currently held by local, expires at {held[1]:.0f}"
            raise Refused(409, f"machine ID {self._machine_id} {text}")

    def release(self, nonce: str | None) -> None:
        """Give it back. Raises Refused without its nonce, or if it isn't held."""
        if not nonce:
            raise Refused(400, "the header fly-machine-lease-nonce is required to release a lease")
        with self._lock:
            if self.nonce is None:
                raise Refused(404, "lease not found")
            self.check(nonce)
            self._held = None
