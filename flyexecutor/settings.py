"""Arguments and environment to one frozen `Settings`, or one error that names all that is missing.

Reads the variables that a Fly app has or its owner sets. Never prints a token, a Redis password or a key.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from flyexecutor import environment
from flyexecutor.arguments import check_secrets, check_strength, check_texts, check_token, read_regions
from flyexecutor.environment import ENCRYPT_VARIABLE, KEY_VARIABLE, REDIS_VARIABLE, MachineEnvironment, read_keys
from flyexecutor.errors import SettingsError
from flyexecutor.payload import cipher
from flyexecutor.payload.trust import Trust, derive_key
from flyexecutor.secrecy import Environment, Secret, goes_in_clear, passwords_of, redact

PUBLIC_API = "https://api.machines.dev"  # Fly: from anywhere, needs a token

log = logging.getLogger("flyexecutor")

_warned: set[str] = set()  # addresses


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """Where everything is, and the keys."""

    app: str
    token: str
    api_url: str
    redis_url: str
    image: str
    regions: Sequence[str]
    key: bytes  # that signs
    fallbacks: tuple[bytes, ...] = ()  # keys that verify as well, before or after a rotation
    encrypt: bool = False  # what is sealed
    lane: str = ""  # inside a machine: its own

    def __repr__(self) -> str:
        return f"<Settings app={self.app!r} api={self.api_url!r} redis={redact(self.redis_url)!r} image={self.image!r}>"

    @property
    def secrets(self) -> frozenset[str]:
        """What others must not be quoted with."""
        return passwords_of(self.redis_url) | {self.token} | {Secret(key.hex()) for key in (self.key, *self.fallbacks)}

    def make_trust(self) -> Trust:
        """Who has these keys."""
        return Trust(self.key, self.app, self.fallbacks, encrypts=self.encrypt)


def read_settings(
    *,
    app: str | None = None,
    token: str | None = None,
    api_url: str | None = None,
    redis_url: str | None = None,
    image: str | None = None,
    regions: Sequence[str] | None = None,
    secret: str | None = None,
    encrypt: bool | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Complete what the caller gave with the environment.

    Raises SettingsError that names every missing setting at once.
    """
    environ = environment.here if environ is None else Environment(dict(environ))
    texts = {"app": app, "image": image, "api_url": api_url}
    check_texts(**{name: value for name, value in texts.items() if value != ""})
    check_secrets(token=token, redis_url=redis_url, secret=secret)
    app = app or environ.get("FLY_TASKS_APP")
    token = Secret(token or environ.get("FLY_API_TOKEN", ""))
    redis_url = Secret(redis_url or environ.get("REDIS_URL") or environ.get(REDIS_VARIABLE, ""))
    image = image or environ.get("WORKER_IMAGE") or environ.get("FLY_IMAGE_REF")
    missing = [
        f"{what} (argument {argument}= or environment variable {variable})"
        for value, what, argument, variable in (
            (app, "the app that holds the machines", "app", "FLY_TASKS_APP"),
            (token, "a Fly API token", "token", "FLY_API_TOKEN"),
            (redis_url, "the address of Redis", "redis_url", "REDIS_URL"),
            (image, "the image of the worker", "image", "WORKER_IMAGE"),
        )
        if not value
    ]
    if missing or not (app and token and redis_url and image):
        raise SettingsError(f"missing: {'; '.join(missing)}. To try it on this computer use local=True")
    check_token(token)
    _check_redis_url(redis_url)
    api_url = _read_api_url(api_url or environ.get("FLY_API_HOSTNAME") or PUBLIC_API)
    if regions is None:
        regions = [environ["FLY_REGION"]] if environ.get("FLY_REGION") else []
    key, *fallbacks = _read_ring(app, token, secret, environ)
    encrypt = _read_encrypt(encrypt, environ)
    _warn_once("REDIS_URL", redis_url, "its password and all calls", "rediss://")
    _warn_once("FLY_API_HOSTNAME", api_url, "the token and the key", "https://")
    return Settings(
        app=app,
        token=token,
        api_url=api_url,
        redis_url=redis_url,
        image=image,
        regions=read_regions(regions),
        key=key,
        fallbacks=tuple(fallbacks),
        encrypt=encrypt,
    )


def _check_redis_url(redis_url: str) -> None:
    if redis_url.partition("://")[0] not in {"redis", "rediss"}:
        # Without a scheme it may be no address at all, but another secret.
        what = repr(redact(redis_url)) if "://" in redis_url else "no address"
        raise SettingsError(f"REDIS_URL is {what}: it must start with redis:// or rediss://")
    if not _has_good_port(redis_url):
        # Nothing of it is told: where its password ends is not clear.
        raise SettingsError(
            "REDIS_URL has no valid port: in its password / ? # [ ] must be written as %2F %3F %23 %5B %5D"
        )


def _read_api_url(api_url: str) -> str:
    api_url = api_url.rstrip("/")
    if urlsplit(api_url).scheme not in {"http", "https"}:
        raise SettingsError(f"FLY_API_HOSTNAME is {redact(api_url)!r}: it must start with http:// or https://")
    if redact(api_url) != api_url:
        # It is told in errors, and would take the place of the token in requests' headers.
        raise SettingsError(f"FLY_API_HOSTNAME is {redact(api_url)!r} with a user, a password or a query: leave it out")
    return api_url


def machine_settings(environ: Mapping[str, str] = environment.here) -> Settings | None:
    """Inside a call on a machine of ours: where everything is, without a token; elsewhere None."""
    if not environment.is_machine(environ):
        return None
    machine = MachineEnvironment.from_env(environ)
    key, *fallbacks = machine.keys
    return Settings(
        app=machine.app,
        token="",
        api_url=PUBLIC_API,
        redis_url=machine.redis_url,
        image=machine.image,
        regions=(),
        key=key,
        fallbacks=tuple(fallbacks),
        encrypt=machine.encrypt,
        lane=machine.lane,
    )


def _read_encrypt(encrypt: bool | None, environ: Mapping[str, str]) -> bool:
    if encrypt is None:
        given = environ.get(ENCRYPT_VARIABLE, "")
        if given not in {"", "0", "1"}:
            raise SettingsError(f"{ENCRYPT_VARIABLE} is {given!r}: it must be 1, or 0")
        encrypt = given == "1"
    if not isinstance(encrypt, bool):
        raise SettingsError(f"encrypt is {encrypt!r}: it must be True or False")
    if encrypt and not cipher.is_installed():
        raise SettingsError(f"encrypt needs the package cryptography: {cipher.REMEDY}")
    return encrypt


def _read_ring(app: str, token: str, secret: str | None, environ: Mapping[str, str]) -> tuple[bytes, ...]:
    """The key that signs, then the others that verify."""
    secret = Secret(secret or environ.get("FLYEXECUTOR_SECRET", ""))
    if not secret and KEY_VARIABLE in environ:
        # Inside a machine of ours: a call that submits calls signs with the key that its machine was given.
        return read_keys(environ)
    if secret:
        check_strength("FLYEXECUTOR_SECRET", secret)
    # Not by spaces or commas: a token of Fly's has both.
    parts = map(str.strip, environ.get("FLYEXECUTOR_SECRET_FALLBACKS", "").split(";"))
    others = [Secret(part) for part in parts if part]
    for number, other in enumerate(others, 1):
        check_strength(f"secret {number} of FLYEXECUTOR_SECRET_FALLBACKS", other)
    keys = (derive_key(known_secret, app) for known_secret in (secret or token, *others))
    return tuple(dict.fromkeys(keys))


def _warn_once(variable: str, url: str, what: str, scheme: str) -> None:
    address = redact(url)
    if goes_in_clear(url) and address not in _warned:
        _warned.add(address)
        log.warning(
            "%s is %s: %s can be read on their way there; use %s, or an address of a private network",
            variable,
            address,
            what,
            scheme,
        )


def _has_good_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0 and "@" not in urlsplit(url).path
    except ValueError:
        return False
