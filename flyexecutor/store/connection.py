"""Connections to a Redis: how long each kind of request may take, and errors of redis-py as ours.

Whoever connects owns the client and closes it. No password of an address is in an error, or in a client's `repr`.
"""

import functools
import socket
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider
from redis.retry import Retry

from flyexecutor.damage import tell_once
from flyexecutor.errors import FlyExecutorError, PayloadError, RedisUnavailableError
from flyexecutor.secrecy import Address

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 5.0  # of a small request: a connection that is silent for longer is dead
BULK_TIMEOUT = 20.0  # above what 10 MB take on a slow line
SMALL_BYTES = 1024 * 1024  # a larger request is given that time
PIECE_RETRIES = 3  # of a piece of a large payload, which may be sent and fetched twice
QUICK_TIMEOUT = 0.3  # for what may be called on an event loop: cancel, state
# A host that is gone is noticed in some ten seconds, by the kernels alone: it costs no command.
KEEPALIVE = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPALIVE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}

# Error codes of a server that fails over, loads or is busy, or of enqueue.lua: it will take the request later. Case as
# Redis sends it; redis-py cuts off some codes, then the text tells.
PASSING = (
    "EXPIRED",
    "READONLY",
    "read only replica",
    "LOADING",
    "BUSY ",  # not BUSYGROUP
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
)
# What it answers to a command on a key of another type, or with another kind of value in it, or if a script met that.
_DAMAGE = (
    "WRONGTYPE",
    "wrong kind of value",
    "not an integer",
    "not a valid float",
    "overflow",
    "attempt to ",
    "bad argument",
)
_LOGIN = {  # what Redis says, and what that means
    "without any password configured": "REDIS_URL has a password, and this server has none for its user",
    "Authentication required": "REDIS_URL has no password, and this server wants one",
}

P = ParamSpec("P")
T = TypeVar("T")


def connect(url: str, timeout: float) -> "redis.Redis":
    """A client of a server; timeout: seconds that one of its requests may take."""
    client = redis.Redis.from_url(
        url,
        protocol=2,
        socket_connect_timeout=min(timeout, CONNECT_TIMEOUT),
        socket_timeout=timeout,
        socket_keepalive=True,
        socket_keepalive_options=KEEPALIVE,
        # Never by itself: a claim whose answer was lost must not be followed by a second claim.
        retry=Retry(NoBackoff(), 0),
    )
    login = client.connection_pool.connection_kwargs  # which older ones than redis-py 7 show in their repr
    if "password" in login:
        login["credential_provider"] = UsernamePasswordCredentialProvider(
            login.pop("username", None), login.pop("password")
        )
    return client


def is_damage(exc: BaseException) -> bool:
    """Whether an error says that what lies in Redis is not what it should be: Redis is there."""
    text = str(exc)
    passing = any(word in text for word in PASSING)
    return isinstance(exc, redis.ResponseError) and not passing and any(word in text for word in _DAMAGE)


def translate(address: Address, exc: redis.RedisError) -> FlyExecutorError:
    """An error of redis-py as ours: with the server's address, and without the password that it may quote."""
    if is_damage(exc):
        said = address.scrub(exc)
        return PayloadError(f"damaged: what lies in Redis at {address} is not what we put there ({said})")
    return unavailable(address, exc)


def unavailable(address: Address, exc: redis.RedisError) -> RedisUnavailableError:
    """That Redis can't be reached, or refuses us."""
    said = address.scrub(exc)
    refused = isinstance(exc, redis.AuthenticationError | redis.ResponseError)
    refused = refused and not any(word in str(exc) for word in PASSING)
    login = isinstance(exc, redis.AuthenticationError)
    if login:
        why = next(
            (why for words, why in _LOGIN.items() if words in str(exc)), "REDIS_URL has a wrong user or password"
        )
        error = RedisUnavailableError(f"Redis at {address} refuses us: {why} ({said})")
    elif refused:
        error = RedisUnavailableError(f"Redis at {address} refused the request ({said}): check its limits and its ACL")
    else:
        error = RedisUnavailableError(f"Redis at {address} can't be reached ({said}): check REDIS_URL and that it runs")
    error.permanent, error.login = refused, login
    return error


def translated(verb: Callable[P, T]) -> Callable[P, T]:
    """A method of something that has an `address`: errors of redis-py become ours."""

    @functools.wraps(verb)
    def translate_errors(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return verb(*args, **kwargs)
        except redis.RedisError as exc:
            raise translate(args[0].address, exc) from None  # type: ignore[attr-defined]

    return translate_errors


def if_sound(ask: Callable[[], Any], instead: Any) -> Any:
    """What Redis answers; something else if the key has another type than it should have."""
    try:
        return ask()
    except redis.ResponseError as exc:
        if not is_damage(exc):
            raise
        tell_once("what lies in Redis beside the calls", exc)
        return instead
