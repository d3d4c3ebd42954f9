"""Fly's documented rate limits (https://fly.io/docs/machines/api/working-with-machines-api/#rate-limits): per action
and identifier 1 request a second with a burst of 3; get machine 5 a second with a burst of 10.
"""

import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second in the long run, and how many may come at once."""

    per_second: float
    burst: int


RATES = {"get": Rate(5, 10)}
USUAL = Rate(1, 3)


class Limits:
    """A token bucket for each action and identifier; with a speed, as many requests a second more, in equal bursts."""

    def __init__(self, *, enforced: bool, speed: float = 1.0) -> None:
        self._enforced = enforced
        self._speed = speed
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}  # tokens left, when that was so

    def allow(self, action: str, identifier: str) -> bool:
        """Whether the request may pass now; takes a token if so."""
        if not self._enforced:
            return True
        rate = RATES.get(action, USUAL)
        with self._lock:
            now = time.monotonic()
            tokens, at = self._buckets.get((action, identifier), (float(rate.burst), now))
            tokens = min(rate.burst, tokens + (now - at) * rate.per_second * self._speed)
            self._buckets[action, identifier] = (tokens - 1 if tokens >= 1 else tokens, now)
            return tokens >= 1
