"""Lua scripts by their names, and errors of redis-py as ours. Owns nothing."""

import functools
import hashlib
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import redis

from flyexecutor.damage import MOST_ATTEMPTS, MOST_PIECES
from flyexecutor.store.reader import translate

COMMON = ("sound", "lib")  # before each script

P = ParamSpec("P")
T = TypeVar("T")


def translated(fn: Callable[P, T]) -> Callable[P, T]:
    """A method of something that has an `address`: errors of redis-py become ours."""

    @functools.wraps(fn)
    def verb(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return fn(*args, **kwargs)
        except redis.RedisError as exc:
            store = args[0]
            raise translate(store.address, exc) from None  # type: ignore[attr-defined]

    return verb


class Script:
    """One Lua file with what all have before it, by EVALSHA; sent whole only if the server does not have it yet."""

    def __init__(self, name: str) -> None:
        folder = importlib.resources.files("flyexecutor.store") / "lua"
        self.assemble({part: (folder / f"{part}.lua").read_text() for part in (*COMMON, name)})

    def assemble(self, parts: Mapping[str, str]) -> None:
        """Be made of these, in order."""
        self._text = f"local MOST_PIECES, MOST_ATTEMPTS = {MOST_PIECES}, {MOST_ATTEMPTS}\n" + "".join(parts.values())
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, client: "redis.Redis", keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            return client.evalsha(self._sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            return client.eval(self._text, len(keys), *keys, *args)


script = functools.cache(Script)
