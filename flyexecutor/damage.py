"""What is believed of what comes from Redis: bounded readers of numbers, words, texts and JSON.

Whoever can write to Redis, or a bug, may have left anything there. Each reader raises PayloadError, which says what is
damaged and how. Nothing is unpickled here. Owns which kinds of damage the log has been told of.
"""

import json
import logging
import math
import re
from typing import Any

from flyexecutor.errors import PayloadError
from flyexecutor.names import shown
from flyexecutor.states import State

MOST_PIECES = 4096  # of a payload: 16 GB. The Lua scripts are told so,
MOST_ATTEMPTS = 1_000_000  # and this
LARGEST = 10**14 - 1  # of all numbers: what Lua writes whole; as milliseconds the year 5138
DIGITS = len(str(LARGEST))
MOST_WORD = 256  # bytes
MOST_JSON = 64 * 1024  # bytes
MOST_NOTE = 1000  # characters of a progress's note
TOLD_KINDS = 1000  # that the log is told of, in a process's life

_PIECES = re.compile(r"([\w.:-]+):(\d{1,4})", re.ASCII)

log = logging.getLogger("flyexecutor")
_seen: set[str] = set()


def tell_once(place: str, what: object) -> None:
    """Log that something is damaged and was passed over: once for each place, or a flood of it would flood the log."""
    if place not in _seen and len(_seen) < TOLD_KINDS:
        _seen.add(place)
        log.error("%s is damaged and is passed over (told once): %s", place, shown(str(what)))


def whole(value: bytes | str | None, what: str, most: int = LARGEST) -> int:
    """A whole number from 0 to `most`."""
    # str.isdigit takes digits of all scripts, bytes.isdigit those of ASCII.
    if not value or len(value) > DIGITS or not value.isdigit() or not value.isascii() or (number := int(value)) > most:
        raise _damaged(what, value)
    return number


def seconds(milliseconds: bytes | str | None, what: str = "time") -> float:
    """A time; 0.0 where there is none."""
    return whole(milliseconds or b"0", what) / 1000


def word(value: bytes | str | None, what: str) -> str:
    """A text without spaces; empty where there is none."""
    raw = value.encode(errors="replace") if isinstance(value, str) else value or b""
    if len(raw) > MOST_WORD:
        raise _damaged(what, value)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise _damaged(what, value) from None
    if not text.isprintable() or " " in text:
        raise _damaged(what, value)
    return text


def words(head: bytes | None, what: str, number: int | None = None) -> list[str]:
    """Words with a space in between; so many, or any number."""
    head = head or b""
    try:
        text = head.decode()
    except UnicodeDecodeError:
        raise _damaged(what, head) from None
    found = text.split()
    too_long = len(head) > MOST_WORD and any(len(found_word.encode()) > MOST_WORD for found_word in found)
    if too_long or not text.isprintable() or (number is not None and len(found) != number):
        raise _damaged(what, head)
    return found


def state(value: bytes | str | None) -> State:
    """The state of a call."""
    try:
        return State(value if isinstance(value, str) else (value or b"").decode())
    except ValueError:
        raise _damaged("state", value) from None


def pieces(word: str) -> tuple[str, int]:
    """The name of a large payload, told as "NAME:how many", and how many pieces it has."""
    found = _PIECES.fullmatch(word)
    if not found or int(found[2]) > MOST_PIECES:
        raise _damaged("number of pieces", word)
    return found[1], int(found[2])


def progress(body: bytes) -> tuple[float, float | None, str]:
    """How far a call says that it is: done, total (None: it does not know), and a note."""
    fields = load_json(body, "progress")
    if not (isinstance(fields, list) and len(fields) == 3 and isinstance(fields[2], str)):
        raise _damaged("progress", body)
    done, total, note = fields
    if not _is_number(done) or not (total is None or _is_number(total)):
        raise _damaged("progress", body)
    return done, total, note[:MOST_NOTE]


def load_json(body: bytes, what: str) -> Any:
    """JSON of bounded size; of bounded depth, since Python's reader refuses more."""
    if len(body) > MOST_JSON:
        raise _damaged(what, body)
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _damaged(what, body) from None


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST if isinstance(value, int) else math.isfinite(value)


def _damaged(what: str, value: bytes | str | None) -> PayloadError:
    raw = value.encode(errors="replace") if isinstance(value, str) else value or b""
    start = shown(raw[:80].decode(errors="replace")) + ("..." if len(raw) > 80 else "")
    return PayloadError(f"damaged {what} {start!r}: somebody else, or a bug, has written it into Redis")
