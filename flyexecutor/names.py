"""Level 0: what a call is called, for people: its function's name, or the one that `with_options(name=...)` gives.

It travels with the call's record and is not signed: nothing acts on it, and whoever can write to Redis may have written
anything. So a name is made harmless where it is made, and again where it comes from elsewhere: `shown`.
"""

import functools

LONGEST = 100  # characters
_PARTIALS = 10  # within each other: one may be its own


def name_of(fn: object) -> str:
    """The qualified name of a function, or that of the class of what has none. Raises nothing, whatever `fn` is."""
    fn = _innermost(fn)
    return shown(_text(fn, "__qualname__") or _text(fn, "__name__") or _text(type(fn), "__qualname__"))


def path_of(fn: object) -> str:
    """That with the module, which tells functions of one name apart."""
    module = _text(_innermost(fn), "__module__")
    return shown(f"{module}.{name_of(fn)}" if module else name_of(fn))


def shown(name: str) -> str:
    """A name as it may be shown: short, on one line, and without what would move a terminal's cursor."""
    if len(name) <= LONGEST and name.isprintable():
        return name
    escaped = "".join(char if char.isprintable() else repr(char)[1:-1] for char in name[: LONGEST + 1])
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
