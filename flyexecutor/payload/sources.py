"""Where code is from that travels by value, so that tracebacks name its file and show its lines.

cloudpickle leaves out the file's name, so that equal code has equal pickles wherever it is from. Here it is kept. The
lines are the sender's: where the code runs, a file of that name may be another release, or none (a notebook's cell). So
none are shown there, and the sender puts them in when a traceback comes back. Nothing travels for that but the name.
"""

import contextlib
import io
import linecache
import re
import types
from collections import ChainMap
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import cloudpickle

# A line of a traceback (of an exception group: indented with bars); faulthandler writes no comma before "in".
_FRAME = re.compile(r'(?P<indent>[ |]*)File "(?P<file>.+)", line (?P<number>\d+),? in ')

# A file is in one of them, the first that it comes to: what is received and sent on is not ours to show, and what was
# sent from here and comes back is.
_sent: dict[str, types.CodeType] = {}  # by the name of its file: some code of it, by which its lines are found
_received: set[str] = set()  # names of files


def _reduce_code(code: types.CodeType) -> tuple[Callable[..., types.CodeType], tuple[Any, ...]]:
    if code.co_filename not in _received:
        _sent[code.co_filename] = code
    make, args = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return _make_code, (code.co_filename, make, args)


def _make_code(file: str, make: Callable[..., types.CodeType], args: tuple[Any, ...]) -> types.CodeType:
    if file not in _sent:
        _received.add(file)
    return make(*args).replace(co_filename=file)


class Pickler(cloudpickle.Pickler):  # type: ignore[misc] # it has no types
    """cloudpickle's, but code keeps the name of its file."""

    dispatch_table: ClassVar = ChainMap({types.CodeType: _reduce_code}, *cloudpickle.Pickler.dispatch_table.maps)


def dumps(value: Any, buffer_callback: Callable[[Any], object] | None = None) -> bytes:
    """Pickle, with protocol 5. Raises what pickling raises."""
    file = io.BytesIO()
    Pickler(file, protocol=5, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """While this lasts, a traceback shows no lines of code that came by value: they are the sender's to show."""
    # As of files without lines; and without a time, so that nobody asks whether they have changed (CPython: linecache).
    hiding: dict[str, Any] = {file: (0, None, [], file) for file in _received.copy()}
    before = {file: linecache.cache.pop(file) for file in hiding if file in linecache.cache}
    linecache.cache.update(hiding)
    try:
        yield
    finally:
        for file in hiding:
            linecache.cache.pop(file, None)
        linecache.cache.update(before)


def show(text: str) -> str:
    """A traceback from a machine, with the lines of code that was sent from here put in."""
    lines = text.split("\n")
    shown = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        shown.append(line)
        frame = _FRAME.match(line)
        if frame and not following.startswith(f"{frame['indent']}  "):
            source = _line(frame["file"], int(frame["number"]))
            shown += [f"{frame['indent']}  {source}"] if source else []
    return "\n".join(shown)


def _line(file: str, number: int) -> str:
    code = _sent.get(file)
    if code is None:
        return ""  # what a traceback names is no reason to open a file
    linecache.checkcache(file)
    # What is typed into Python 3.13 or newer is found by its code only, as its tracebacks do (CPython: traceback).
    typed: Any = getattr(linecache, "_getlines_from_code", lambda _: [])
    lines = linecache.getlines(file) or typed(code)
    return "".join(lines[max(0, number - 1) : number]).strip()
