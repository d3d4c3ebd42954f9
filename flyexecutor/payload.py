"""Level 3: objects to bytes and back (step 1, 7 and 9).

A body is a pickle with its large buffers beside it (protocol 5, out of band), so that a NumPy array is not copied into
the pickle. What there is to say when nothing can be unpickled (a crash, a refusal) is a plain error. Bodies are opaque
to the store; `trust` seals them. No I/O.
"""

import pickle
import struct
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle

from flyexecutor import plain
from flyexecutor.errors import FlyExecutorError, RemoteError
from flyexecutor.trust import Encoding

OUT_OF_BAND_BYTES = 64 * 1024  # a smaller buffer is cheaper inside the pickle
_COUNT = struct.Struct(">I")
_LENGTH = struct.Struct(">Q")
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})  # the C pickler does them alone, ten times faster


@dataclass(frozen=True, slots=True)
class Invocation:
    """What a call does, unpickled."""

    fn: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """How a call ended, unpickled: an exception, or else a value."""

    value: Any = None
    exception: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Dumped:
    """A body and how it is encoded."""

    encoding: Encoding
    body: bytes


class RemoteTraceback(Exception):
    """The `__cause__` of an exception that a call raised: the traceback on its machine, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def dump_call(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Pickle a call as it is now: changing an argument afterwards changes nothing.

    Raises what pickling raises, with a note that names the function.
    """
    try:
        return _dump((fn, args, kwargs))
    except Exception as exc:
        exc.add_note(f"flyexecutor could not pickle the call of {getattr(fn, '__qualname__', repr(fn))}")
        raise


def load_call(body: memoryview) -> Invocation:
    """Unpickle a verified call. Raises what unpickling raises; a missing module is named, with the remedy."""
    try:
        fn, args, kwargs = _load(body)
    except ModuleNotFoundError as exc:
        exc.add_note(
            f"the worker's image has no module {exc.name!r}: add it to the image, or define the function in a module "
            "that the image has"
        )
        raise
    return Invocation(fn, args, kwargs)


def dump_value(value: Any) -> Dumped:
    """Pickle what a call returned; a value that can't be pickled becomes the pickling error."""
    try:
        return Dumped(Encoding.PICKLE, _dump((True, value)))
    except Exception as exc:  # noqa: BLE001 - user code pickles itself and may raise anything
        exc.add_note(f"flyexecutor could not pickle the result, a {type(value).__qualname__}")
        return dump_exception(exc)


def dump_exception(exc: BaseException) -> Dumped:
    """Pickle what a call raised, with its traceback as text.

    An exception that does not survive pickling and unpickling is tried here, where its traceback is at hand, and
    becomes a `RemoteError` that tells its type and message.
    """
    text = "".join(traceback.format_exception(exc))
    try:
        body = _dump((False, exc, text))
        pickle.loads(body[_COUNT.size :])
    except Exception as failure:  # noqa: BLE001 - user code pickles itself and may raise anything
        said = f"{type(exc).__qualname__}: {exc}"
        return dump_error(RemoteError(f"{said} (the exception itself can't be brought back: {failure})"), text)
    return Dumped(Encoding.PICKLE, body)


def dump_error(error: FlyExecutorError, traceback_text: str = "") -> Dumped:
    """One of our own errors, readable by every Python version."""
    return Dumped(Encoding.TEXT, plain.dump(error, traceback_text))


def load_outcome(encoding: Encoding, body: memoryview) -> Result:
    """Unpickle a verified outcome. Raises what unpickling raises."""
    if encoding is Encoding.TEXT:
        told = plain.load(body)
        return _raised(told.error, told.traceback)
    succeeded, *rest = _load(body)
    return Result(value=rest[0]) if succeeded else _raised(*rest)


def _raised(exc: BaseException, traceback_text: str) -> Result:
    if traceback_text:
        exc.__cause__ = RemoteTraceback(traceback_text)
    return Result(exception=exc)


def _dump(value: Any) -> bytes:
    if type(value) is tuple and value[0] is True and type(value[1]) in _PLAIN:
        return _COUNT.pack(0) + pickle.dumps(value, protocol=5)
    buffers: list[memoryview] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES:
            return True
        buffers.append(raw)
        return False

    pickled = cloudpickle.dumps(value, protocol=5, buffer_callback=keep_inside)
    return b"".join((_COUNT.pack(len(buffers)), *(_LENGTH.pack(raw.nbytes) for raw in buffers), *buffers, pickled))


def _load(body: memoryview) -> Any:
    (count,) = _COUNT.unpack_from(body)
    at = _COUNT.size + count * _LENGTH.size
    buffers = []
    for n in range(count):
        (length,) = _LENGTH.unpack_from(body, _COUNT.size + n * _LENGTH.size)
        # A copy into memory that can be written: an array made over the read-only payload could not be changed by
        # the function that receives it. Pickle itself marks those read-only that were so at the sender.
        buffers.append(bytearray(body[at : at + length]))
        at += length
    return pickle.loads(body[at:], buffers=buffers)
