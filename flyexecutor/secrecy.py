"""What must not be shown. Texts whose repr hides them, addresses without a password, and what others say of us
without what they quote. Pure functions.
"""

import ipaddress
import json
import re
from collections import ChainMap
from collections.abc import Iterable, Mapping
from typing import TypeVar, cast
from urllib.parse import parse_qsl, quote, unquote, urlsplit

T = TypeVar("T")
HIDDEN = "***"
LONG = 8  # characters: what is shorter may be a part of other words
_SCHEME = re.compile(r"\w+://")
_HOST = r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?"
_ADDRESS = re.compile(rf"(?:\w+://)?{_HOST}(?:/\d*)?")
# Upstash's address at Fly is one of the private network.
_PRIVATE = re.compile(r"[^.]*|.*\.(?:internal|flycast|localhost|local)|fly-[\w-]+\.upstash\.io")
_WEB_ADDRESS = re.compile(rf"{_HOST}(?:/[\w./-]*)?")


class Secret(str):
    """A text that `repr` does not show: so it is not seen among the variables of a traceback, nor in a dict that holds
    it. All else takes it for the text that it is: `str()` and print show it.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(HIDDEN)


class SecretBytes(bytes):
    """The same for bytes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"b{HIDDEN!r}"


def hide(value: T) -> T:
    """A text as a Secret, also those in a dict; what is neither, as it is."""
    if isinstance(value, dict):
        return cast("T", {name: hide(element) for name, element in value.items()})
    return cast("T", Secret(value)) if isinstance(value, str) else value


class Environment(ChainMap[str, str]):
    """Environments, one behind the other, of which nothing is shown."""

    def __repr__(self) -> str:
        return f"<Environment {HIDDEN}>"


class Address(str):
    """The address of a server, as it may be told. Knows the password that it leaves out, and takes it out of what the
    server says.
    """

    _secrets: frozenset[str]

    def __new__(cls, url: str) -> "Address":
        """The address of this URL."""
        made = super().__new__(cls, redact(url))
        made._secrets = passwords_of(url)
        return made

    def scrub(self, text: object) -> str:
        """What the server has said, or what was said of it."""
        return scrub(str(text), self._secrets)


def redact(url: str) -> str:
    """The address of a server without its password: `redis://host:6379/0`; what looks like none is `...`.

    Whatever stands before the last @ goes, and what follows a ?, where redis-py takes a password too. Not `urlsplit`:
    it ends the host at a / or # that somebody forgot to encode, and takes what follows for a path.
    """
    found = _SCHEME.match(url)  # at the beginning only: a password may hold :// too
    scheme = found[0] if found else ""
    before, _, address = url[len(scheme) :].rpartition("@")
    address = re.split("[?#]", address)[0]
    # An @ after a ? may belong to a password.
    good = "?" not in before and (_WEB_ADDRESS if scheme.startswith("http") else _ADDRESS).fullmatch(address)
    return scheme + (address if good else "...")


def goes_in_clear(url: str) -> bool:
    """Whether what is sent there can be read on its way: without TLS, and not in a private network."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme in {"https", "rediss"}:
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return not _PRIVATE.fullmatch(host)


def passwords_of(url: str) -> frozenset[str]:
    """What may be a password in an address, as it is written and as it is meant, whatever the address looks like."""
    rest = _SCHEME.sub("", url, count=1)
    passwords = {rest.rpartition("@")[0].partition(":")[2]}
    passwords |= {value for name, value in parse_qsl(rest.partition("?")[2]) if name == "password"}
    return frozenset(
        Secret(password) for password in passwords | {unquote(password) for password in passwords} if password
    )


def scrub(text: str, secrets: Iterable[str], env: Mapping[str, str] | None = None) -> str:
    """What somebody else has said, without these secrets and the values of this environment, as they are or quoted.

    A short secret is taken out where it is a word of its own, a short value of the environment behind its name.
    """
    env = env or {}
    for secret in sorted({*secrets, *env.values()}, key=len, reverse=True):
        if len(secret) >= LONG:
            for form in _forms(secret):
                text = text.replace(form, HIDDEN)
    for secret in secrets:
        if 0 < len(secret) < LONG:
            text = re.sub(rf"(?<!\w){_pattern(secret)}(?!\w)", HIDDEN, text)
    for name, value in env.items():
        if 0 < len(value) < LONG:
            text = re.sub(rf"({re.escape(name)}\W{{1,8}}){_pattern(value)}", rf"\1{HIDDEN}", text)
    return text


def _forms(secret: str) -> list[str]:
    """How it may be written, the longest first."""
    forms = {secret, quote(secret, safe="", errors="replace"), json.dumps(secret)[1:-1]}
    return sorted(forms, key=len, reverse=True)


def _pattern(secret: str) -> str:
    return f"(?:{'|'.join(map(re.escape, _forms(secret)))})"
