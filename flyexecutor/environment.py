"""All that a machine of ours is told by its environment: one record, of which nothing secret is shown.

Whoever creates a machine writes it (`to_env`), its worker reads it (`from_env`), and so does each runner what calls
need of it (`for_calls`). A runner hears that from its worker and not by its own environment, which is that of whatever
user code starts, and which Linux shows to all processes of its user.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from flyexecutor.errors import SettingsError
from flyexecutor.payload import cipher
from flyexecutor.payload.trust import Trust
from flyexecutor.secrecy import Environment, Secret, SecretBytes

REDIS_VARIABLE = "FLYEXECUTOR_REDIS_URL"  # REDIS_URL is the user's there
KEY_VARIABLE = "FLYEXECUTOR_KEY"
ENCRYPT_VARIABLE = "FLYEXECUTOR_ENCRYPT"  # clients hear it, too
_FALLBACKS = "FLYEXECUTOR_FALLBACK_KEYS"
_LANE = "FLYEXECUTOR_LANE"
_CONCURRENCY = "FLYEXECUTOR_CONCURRENCY"
_IDLE_TIMEOUT = "FLYEXECUTOR_IDLE_TIMEOUT"
_MAX_LIFETIME = "FLYEXECUTOR_MAX_LIFETIME"
_WARMUP = "FLYEXECUTOR_WARMUP"
_IDLE = "FLYEXECUTOR_IDLE"
_SCHEDULED = "FLYEXECUTOR_SCHEDULED"
_OURS = "FLYEXECUTOR_"  # how the names of our variables begin
_APP, _MACHINE, _REGION, _IMAGE = "FLY_APP_NAME", "FLY_MACHINE_ID", "FLY_REGION", "FLY_IMAGE_REF"
_NEEDED = (_APP, _MACHINE, REDIS_VARIABLE, _LANE, KEY_VARIABLE)
_FOR_CALLS = (KEY_VARIABLE, _FALLBACKS, ENCRYPT_VARIABLE, REDIS_VARIABLE, _LANE)


class Idle(StrEnum):
    """What a machine does when it has nothing to do."""

    SUSPEND = "suspend"  # it rests, and is resumed for the next calls
    STOP = "stop"  # it rests, and is started for the next calls
    END = "end"  # it is destroyed, or Fly starts it when its schedule says so


_heard: dict[str, str] = {}  # from the worker of this process, if it is a runner
here: Mapping[str, str] = Environment(_heard, os.environ)  # all that this process is told


@dataclass(frozen=True, slots=True)
class MachineEnvironment:
    """What a machine is told, an attribute for each variable: the first four by Fly, all else by whoever created it."""

    app: str
    machine_id: str
    region: str
    image: str
    redis_url: str
    keys: Sequence[bytes]  # the first signs, all verify
    lane: str  # empty: it has no name yet
    encrypt: bool
    concurrency: int
    idle_timeout: float  # seconds
    max_lifetime: float  # seconds
    warmup: bytes = b""  # sealed: what each of its processes runs before it is first suspended
    idle: Idle | None = None  # None: not decided yet
    scheduled: str = ""  # the call that it submits when it starts, as JSON

    def to_env(self) -> dict[str, str]:
        """What its creator says."""
        env = {
            REDIS_VARIABLE: Secret(self.redis_url),
            **show_keys(self.keys),
            ENCRYPT_VARIABLE: "1" if self.encrypt else "",
            _LANE: self.lane,
            _CONCURRENCY: str(self.concurrency),
            _IDLE_TIMEOUT: str(self.idle_timeout),
            _MAX_LIFETIME: str(self.max_lifetime),
            _WARMUP: Secret(base64.b64encode(self.warmup).decode()),
        }
        own = {} if self.idle is None else env_of_one(self.idle, self.scheduled)
        return {name: value for name, value in env.items() if value} | own

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """The reverse. Raises SettingsError that names all that is missing.

        What only the worker needs, and a runner is not told, is as usual there.
        """
        if missing := [name for name in _NEEDED if not environ.get(name)]:
            raise SettingsError(f"{', '.join(missing)} not set")
        return cls(
            app=environ[_APP],
            machine_id=environ[_MACHINE],
            region=environ.get(_REGION, ""),
            image=environ.get(_IMAGE, ""),
            redis_url=Secret(environ[REDIS_VARIABLE]),
            keys=read_keys(environ),
            lane=environ[_LANE],
            encrypt=environ.get(ENCRYPT_VARIABLE) == "1",
            concurrency=int(environ.get(_CONCURRENCY, "1")),
            idle_timeout=float(environ.get(_IDLE_TIMEOUT, "10")),
            max_lifetime=float(environ.get(_MAX_LIFETIME, "86400")),
            warmup=SecretBytes(base64.b64decode(environ.get(_WARMUP, ""))),
            idle=Idle(environ[_IDLE]) if environ.get(_IDLE) else None,
            scheduled=Secret(environ.get(_SCHEDULED, "")),
        )

    def make_trust(self) -> Trust:
        """Who has these keys. Where `cryptography` is not installed it opens no call that is encrypted, and what it
        says of that is not.
        """
        key, *fallbacks = self.keys
        return Trust(key, self.app, fallbacks, encrypts=self.encrypt and cipher.is_installed())


def env_of_one(idle: Idle, scheduled: str = "") -> dict[str, str]:
    """What one machine is told beside what all of its lane are."""
    env = {_IDLE: idle.value}
    return {**env, _SCHEDULED: Secret(scheduled)} if scheduled else env


def is_machine(environ: Mapping[str, str] = here) -> bool:
    """Whether this is the environment of a machine of ours."""
    return all(environ.get(name) for name in _NEEDED)


def for_calls(environ: Mapping[str, str]) -> dict[str, str]:
    """What a worker tells its runners of its environment."""
    return {name: environ.get(name, "") for name in _FOR_CALLS}


def for_user_code(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a runner: a worker's without what we say."""
    return {name: value for name, value in environ.items() if not name.startswith(_OURS)}


def hear(said: Mapping[str, str]) -> None:
    """In a runner: what its worker tells it, `for_calls`."""
    _heard.update(said)


def show_keys(keys: Sequence[bytes]) -> dict[str, str]:
    """A ring as an environment has it."""
    key, *fallbacks = (signing.hex() for signing in keys)
    env: dict[str, str] = {KEY_VARIABLE: Secret(key)}
    return {**env, _FALLBACKS: Secret(" ".join(fallbacks))} if fallbacks else env


def read_keys(environ: Mapping[str, str]) -> tuple[bytes, ...]:
    """The ring that a machine was given: the key that signs, then the others."""
    return tuple(map(SecretBytes.fromhex, (environ[KEY_VARIABLE], *environ.get(_FALLBACKS, "").split())))
