"""What a request says, read strictly: another type than the API has is a 400 that names the field, never a 500."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import request

from flyexecutor.local.problems import Refused

LARGEST = 2**31 - 1
DEEPEST = 100  # lists and objects within each other: what Python just reads it may fail to write, in each later list


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field may hold, in words and as a check."""

    words: str
    fits: Callable[[Any], bool]


DURATION = Kind("a duration", lambda value: type(value) in {str, int, float})
TEXT = Kind("a string", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
COUNT = Kind(f"a whole number from 0 to {LARGEST}", lambda value: type(value) is int and 0 <= value <= LARGEST)
SIGNAL = Kind("the name of a signal", lambda value: type(value) in {str, int})  # Fly's Go client sends numbers
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
TEXTS = Kind("a list of strings", lambda value: isinstance(value, list) and all(map(TEXT.fits, value)))


def read_body(**kinds: Kind) -> dict[str, Any]:
    """The fields of the body that a route knows; None where they are missing or null. Others are ignored, as by Fly.

    Raises Refused if the body is not a JSON object, or a field is of another kind.
    """
    # Not request.data: that is empty for what curl sends with -d, which says that it is a form.
    try:
        data = request.get_data()
        body = json.loads(data, parse_constant=_refuse) if data else {}
    except (ValueError, RecursionError):
        raise Refused(400, "the body must be a JSON object, and is no JSON") from None
    except OSError as exc:  # it comes in chunks, and these are none
        raise Refused(400, f"the body can't be read: {exc}") from None
    if not _is_flat(body, DEEPEST):
        raise Refused(400, f"the body has more than {DEEPEST} lists and objects within each other")
    if not isinstance(body, dict):
        raise Refused(400, "the body must be a JSON object")
    for name, kind in kinds.items():
        if body.get(name) is not None and not kind.fits(body[name]):
            raise Refused(400, f"{name} must be {kind.words}, not {_shown(body[name])}")
    return {name: body.get(name) for name in kinds}


def flag(name: str) -> bool:
    """Whether a parameter of the query says yes, in one of Go's ways."""
    return request.args.get(name) in {"1", "t", "T", "true", "TRUE", "True"}


def count(name: str, default: int) -> int:
    """A whole number of the query. Raises Refused if it is none."""
    given = request.args.get(name)
    if not given:
        return default
    if given.isascii() and given.isdigit() and len(given) <= 10 and (number := int(given)) <= LARGEST:
        return number
    raise Refused(400, f"{name} must be {COUNT.words}, not {_shown(given)}")


def choice(name: str, choices: tuple[str, ...]) -> str:
    """A parameter of the query that is one of several words, the first if it is missing. Raises Refused for others."""
    given = request.args.get(name) or choices[0]
    if given not in choices:
        raise Refused(400, f"{name} must be one of {', '.join(choices)}, not {_shown(given)}")
    return given


def words(name: str) -> set[str]:
    """The words of a parameter of the query, which are separated by commas."""
    return {word.strip() for word in request.args.get(name, "").split(",") if word.strip()}


def _is_flat(value: Any, most: int) -> bool:
    elements = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return most > 0 and all(_is_flat(element, most - 1) for element in elements)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
