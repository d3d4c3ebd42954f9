"""What people are shown of what comes from elsewhere; above all what a call is called, which is its function's
name, or the one that `with_options(name=...)` gives.

It travels with the call's record and is not signed: nothing acts on it, and whoever can write to Redis may have written
anything. So a name is made harmless where it is made, and again where it comes from elsewhere: `shown`.
"""

import functools
import re

LONGEST = 100  # characters
# What acts on a terminal or turns text around: control characters, marks of direction, other ends of lines, and halves
# of pairs, which can't be written at all.
_ACTS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_LINES = re.compile(rf"[{_ACTS}]|\r(?!\n)")
_ON_A_LINE = re.compile(rf"[{_ACTS}\t\n\r]")
_PARTIALS = 10  # within each other: one may be its own


def name_of(fn: object) -> str:
    """The qualified name of a function, or that of the class of what has none. Raises nothing, whatever `fn` is."""
    fn = _innermost(fn)
    return shown(_text(fn, "__qualname__") or _text(fn, "__name__") or _text(type(fn), "__qualname__"))


def path_of(fn: object) -> str:
    """That with the module, which tells functions of one name apart."""
    module = _text(_innermost(fn), "__module__")
    return shown(f"{module}.{name_of(fn)}" if module else name_of(fn))


def visible(text: str, *, lines: bool = True) -> str:
    """A text that came from elsewhere as it may be shown: what would move a terminal's cursor, or turn the text around,
    is escaped as in Python. lines: it may have several, and tabs.
    """
    return (_IN_LINES if lines else _ON_A_LINE).sub(lambda found: repr(found[0])[1:-1], text)


def shown(name: str) -> str:
    """A name as it may be shown: short, and on one line."""
    escaped = visible(name[: LONGEST + 1], lines=False)
    return escaped if len(escaped) <= LONGEST else f"{escaped[: LONGEST - 1]}…"


def read_name(name: bytes | None) -> str:
    """A name as Redis has it."""
    return shown((name or b"").decode(errors="replace"))


def label(call_id: str, name: str) -> str:
    """A call's id with its name."""
    return f"{call_id} ({name})" if name else call_id


def _innermost(fn: object) -> object:
    for _ in range(_PARTIALS):
        if type(fn) is not functools.partial:
            break
        fn = fn.func
    return fn


def _text(named: object, attribute: str) -> str:
    """An attribute, if it is a text; its owner is user code."""
    try:
        text = getattr(named, attribute, "")
    except Exception:  # noqa: BLE001 - see above
        return ""
    return text if type(text) is str else ""
