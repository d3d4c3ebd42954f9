"""What an argument must be, a function for each kind. They raise SettingsError, with the argument's name and
value; the value of what may be a secret is never told.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any

from flyexecutor.errors import SettingsError
from flyexecutor.secrecy import Secret

SECRET_LENGTH = 22  # characters: 128 random bits, as secrets.token_urlsafe(16) writes them
SECRET_VARIETY = 16  # different pairs of steps from character to character: 200,000 random ones had 18 and more
MOST = 10**9  # of what is measured: 30 years, if it is seconds; below what clocks, threads and Redis take


def check_integers(least: int, **values: object) -> None:
    """Whole numbers."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            # CPython's words for an executor's max_workers, which others may look for.
            must = f"{name} must be greater than 0" if least == 1 else f"it must be at least {least}"
            raise SettingsError(f"{name} is {value!r}: {must}, and a whole number")


def check_numbers(least: float, **values: object) -> None:
    """Numbers, as seconds or dollars. None is passed over: it was left out."""
    check_given(least, **{name: value for name, value in values.items() if value is not None})


def check_given(least: float, **values: object) -> None:
    """Numbers that can't be left out."""
    for name, value in values.items():
        if not is_number(value, least):
            raise SettingsError(f"{name} is {value!r}: it must be a number from {least:g} to {MOST:g}")


def is_number(value: object, least: float) -> bool:
    """Whether it is a number that can be counted on: not nan, not endless, not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= MOST


def check_texts(**values: object) -> None:
    """Texts that are not empty. None is passed over: it was left out."""
    for name, value in values.items():
        if value is not None and not (isinstance(value, str) and value):
            raise SettingsError(f"{name} is {value!r}: it must be a text")


def check_secrets(**values: object) -> None:
    """Texts, as above, whose value is not told."""
    for name, value in values.items():
        if value is not None and not isinstance(value, str):
            raise SettingsError(f"{name} is of the type {type(value).__name__}: it must be a text")


def check_strength(name: str, secret: str) -> None:
    """A secret that is not to be guessed by trial: long, and neither a repetition nor a row like 123 or cba."""
    steps = [ord(after) - ord(before) for before, after in pairwise(secret)]
    why = ""
    if len(secret) < SECRET_LENGTH:
        why = f"has {len(secret)} characters, of at least {SECRET_LENGTH}"
    elif len(set(pairwise(steps))) < SECRET_VARIETY:
        why = "repeats itself or counts, so that it can be guessed"
    elif any("\ud800" <= char <= "\udfff" for char in secret):  # how Python has an environment's bytes that are none
        why = "holds bytes that are no UTF-8"
    elif ";" in secret:
        why = "holds a ; which stands between two secrets in FLYEXECUTOR_SECRET_FALLBACKS"
    if why:
        raise SettingsError(f'{name} {why}: make one with python -c "import secrets; print(secrets.token_urlsafe(32))"')


def check_token(token: str) -> None:
    """A text that can stand in a header of HTTP."""
    if not (token.isascii() and token.isprintable()) or token != token.strip():
        raise SettingsError(
            "FLY_API_TOKEN holds something that no token does, a line's end perhaps: give it as Fly printed it"
        )


def read_regions(regions: Iterable[str]) -> tuple[str, ...]:
    """Names of regions."""
    if isinstance(regions, str):
        raise SettingsError(f"regions is the string {regions!r}: give a list, as in regions=[{regions!r}]")
    if not isinstance(regions, Sequence) or not all(isinstance(region, str) and region for region in regions):
        raise SettingsError(f"regions is {regions!r}: it must be a list of names, as ['fra', 'ams']")
    return tuple(regions)


def read_env(env: Mapping[str, str]) -> dict[str, str]:
    """Environment variables."""
    if not isinstance(env, Mapping):
        raise SettingsError(
            f"env is of the type {type(env).__name__}: it must be a dict of texts, as {{'NAME': 'value'}}"
        )
    for name, value in env.items():
        if not (isinstance(name, str) and name) or set(name) & set("=\0"):
            word = repr(name.partition("=")[0]) + " with a =" if isinstance(name, str) and "=" in name else repr(name)
            raise SettingsError(f"env has {word}, which can't be the name of a variable")
        if isinstance(value, bool | int | float) or value is None:
            raise SettingsError(f"env[{name!r}] is {value!r}: it must be a text, as env={{{name!r}: '{value}'}}")
        if not isinstance(value, str):
            raise SettingsError(f"env[{name!r}] is of the type {type(value).__name__}: it must be a text")
        if "\0" in value:
            raise SettingsError(f"env[{name!r}] has a NUL character, which no variable can hold")
    return {name: Secret(value) for name, value in env.items()}


def read_volume(volume: tuple[str, str] | None) -> tuple[str, str] | None:
    """Name and path of a volume."""
    if volume is None:
        return None
    parts = volume if isinstance(volume, tuple | list) else ()
    if len(parts) != 2 or not all(isinstance(part, str) and part for part in parts) or parts[1][0] != "/":
        raise SettingsError(f'volume is {volume!r}: it must be a name and an absolute path, as ("models", "/models")')
    return parts[0], parts[1]


def read_modules(ship: Iterable[ModuleType]) -> tuple[ModuleType, ...]:
    """Modules that travel with calls."""
    modules = tuple(ship) if isinstance(ship, Iterable) and not isinstance(ship, str | bytes) else (ship,)
    if not all(isinstance(module, ModuleType) for module in modules):
        raise SettingsError(f"ship is {ship!r}: it must be a list of imported modules, as ship=[mymodule]")
    return modules


def read_arguments(initargs: Iterable[Any]) -> tuple[Any, ...]:
    """Of an initializer."""
    if not isinstance(initargs, Iterable) or isinstance(initargs, str | bytes):
        raise SettingsError(
            f"initargs is of the type {type(initargs).__name__}: it must be a tuple of the initializer's arguments"
        )
    return tuple(initargs)
