"""Lua scripts by their names. Each change of a call is one: it happens as a whole, or not at all. Owns nothing."""

import functools
import hashlib
import importlib.resources
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis

from flyexecutor.damage import LARGEST, MOST_ATTEMPTS, MOST_PIECES
from flyexecutor.terms import UNFINISHED_TTL

IN_RECORD = "="  # in a head, in place of pieces: the record has the body
# What both sides know, and Python tells the scripts.
SHARED: Mapping[str, int | str] = {
    "DAY": 86400,
    "IN_RECORD": IN_RECORD,
    "LARGEST": LARGEST,
    "MOST_ATTEMPTS": MOST_ATTEMPTS,
    "MOST_PIECES": MOST_PIECES,
    "UNFINISHED_TTL": UNFINISHED_TTL,
}
_NEEDS = re.compile("^-- Needs: (.*)$", re.MULTILINE)


@functools.cache
def read(name: str) -> str:
    """The text of a file."""
    return (importlib.resources.files("flyexecutor.store") / "lua" / f"{name}.lua").read_text()


class Script:
    """One Lua file behind those that it needs, by EVALSHA; sent whole only if the server does not have it yet."""

    def __init__(self, name: str) -> None:
        self.assemble(name, read)

    def assemble(self, name: str, text_of: Callable[[str], str]) -> None:
        """Be made of this file, and of those that it needs."""
        shared = "".join(f"local {constant} = {value!r}\n" for constant, value in SHARED.items())
        self._text = shared + "".join(_parts(name, text_of).values())
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, client: "redis.Redis", keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            return client.evalsha(self._sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            return client.eval(self._text, len(keys), *keys, *args)


def _parts(name: str, text_of: Callable[[str], str]) -> dict[str, str]:
    """The files of a script, each once and behind those that it needs ("-- Needs: NAME ...")."""
    parts: dict[str, str] = {}
    text = text_of(name)
    for needed in _NEEDS.findall(text):
        for each in needed.split():
            parts |= {part: found for part, found in _parts(each, text_of).items() if part not in parts}
    return {**parts, name: text}


script = functools.cache(Script)
