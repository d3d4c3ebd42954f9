"""Who a visitor is, and how many mails one may send in an hour: counted in Redis, for all web processes together.

Without Redis nothing can be counted, and nothing is sent: a call would need the same Redis.
"""

import math
import time
from ipaddress import IPv6Address, ip_address, ip_network

from flask import request
from limits import RateLimitItemPerHour
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from demo.protection import on_fly

MAILS_PER_HOUR = 30
ANSWER_TIMEOUT = 1.0  # seconds


class Quota:
    """What visitors may still send. The hour begins with a visitor's first mail."""

    def __init__(self, redis_url: str) -> None:
        storage = storage_from_string(
            redis_url,
            key_prefix="demo",
            socket_timeout=ANSWER_TIMEOUT,
            socket_connect_timeout=ANSWER_TIMEOUT,
            retry=Retry(NoBackoff(), 0),  # type: ignore[arg-type]  # passed on to redis-py
        )
        self._limiter = FixedWindowRateLimiter(storage)
        self._limit = RateLimitItemPerHour(MAILS_PER_HOUR)

    def take(self) -> int:
        """Count a mail of this request's visitor. 0: it may be sent; else the seconds until the next may.

        Raises RedisError.
        """
        if self._limiter.hit(self._limit, visitor()):
            return 0
        return max(1, math.ceil(self._limiter.get_window_stats(self._limit, visitor()).reset_time - time.time()))


def visitor() -> str:
    """The address of whoever asks; of IPv6 the part that a household is given, which may choose the rest each time."""
    header = request.headers.get("Fly-Client-IP", "") if on_fly() else ""
    try:
        address = ip_address(header)
    except ValueError:  # on Fly: of the private network, past the proxy
        address = ip_address(request.remote_addr or "::")
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or ip_network((address.packed, 64), strict=False))
    return str(address)
