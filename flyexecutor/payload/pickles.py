"""Objects to bytes and back (step 1, 7 and 9).

A body is a pickle with its large buffers beside it (protocol 5, out of band), so that a NumPy array is not copied into
the pickle; a large one that shrinks is compressed. What there is to say when nothing can be unpickled (a crash, a
refusal) is a plain error. Bodies are opaque to the store; `trust` seals them. No I/O.
"""

import contextlib
import logging
import pickle
import struct
import sys
import threading
import types
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle

from flyexecutor import names
from flyexecutor.errors import (
    FlyExecutorError,
    PayloadError,
    PayloadTooLargeError,
    PythonMismatchError,
    RemoteError,
    WorkerCrashedError,
)
from flyexecutor.payload import error_text, packages, plain, sources
from flyexecutor.payload.trust import Encoding
from flyexecutor.retry import Retry

OUT_OF_BAND_BYTES = 64 * 1024  # a smaller buffer is cheaper inside the pickle
MAX_PAYLOAD = 500 * 1024 * 1024
LARGE = 100 * 1024 * 1024  # bytes from which a warning tells that this is not what Redis is for
COMPRESS_FROM = 1024 * 1024  # bytes; below it time is lost
SAMPLE_BYTES = 64 * 1024
WORTH_IT = 0.5  # compress what shrinks to less, judged by a sample from its middle
_COUNT = struct.Struct(">I")
_LENGTH = struct.Struct(">Q")
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})  # the C pickler does them alone, ten times faster

log = logging.getLogger("flyexecutor")


@dataclass(frozen=True, slots=True)
class Manner:
    """How a call is to be run, beside what it does; None where all is as usual."""

    retry: Retry | None = None  # only if exceptions are retried
    initializer: bytes | None = None  # a pickled call, to be made once in each process before any other
    streams: bool = False  # the function is a generator whose items are sent as they come
    max_payload: int = MAX_PAYLOAD  # bytes that its result may have


@dataclass(frozen=True, slots=True)
class Invocation:
    """What a call does, unpickled."""

    fn: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    manner: Manner | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """How a call ended, or an item of one, unpickled: with an exception, or else a value."""

    value: Any = None
    exception: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Dumped:
    """A body and how it is encoded."""

    encoding: Encoding
    body: bytes


class Pickled:
    """An object that was pickled before: it is not pickled again, and unpickles to the object itself."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return pickle.loads, (self._data,)


class PartReference:
    """Stands in a call for what it shares with others; unpickles to the shared object, a new one for each call."""

    def __init__(self, part_id: str) -> None:
        self._part_id = part_id

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return _load_part, (self._part_id,)


_shipping = threading.RLock()
parts_here: dict[str, Dumped] = {}  # what the calls of this process share, verified; the runner keeps it


def shipping(modules: Sequence[types.ModuleType]) -> contextlib.AbstractContextManager[None]:
    """While this lasts, functions and classes of these modules are pickled by value."""
    return _shipping_all(modules) if modules else contextlib.nullcontext()


@contextlib.contextmanager
def _shipping_all(modules: Sequence[types.ModuleType]) -> Iterator[None]:
    with _shipping:  # cloudpickle keeps one list for the whole process
        known = cloudpickle.list_registry_pickle_by_value()
        ours = [module for module in modules if module.__name__ not in known]
        for module in ours:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in ours:
                cloudpickle.unregister_pickle_by_value(module)


def dump_call(
    fn: Callable[..., Any] | Pickled | PartReference,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    manner: Manner | None = None,
) -> Dumped:
    """Pickle a call as it is now: changing an argument afterwards changes nothing.

    Raises what pickling raises, with a note that names the function.
    """
    try:
        if not kwargs and _by_reference(fn) and all(type(arg) in _PLAIN for arg in args):
            return _encode(_COUNT.pack(0) + pickle.dumps((fn, args, kwargs, manner), protocol=5))
        return _encode(_dump((fn, args, kwargs, manner)))
    except Exception as exc:
        exc.add_note(f"flyexecutor could not pickle the call of {names.name_of(fn)}")
        raise


def check_size(dumped: Dumped, what: str, limit: int) -> None:
    """Raises PayloadTooLargeError if it is larger than `limit` bytes; a warning tells before that."""
    size = len(dumped.body)
    if size > limit:
        raise PayloadTooLargeError(
            f"{what} is {size:,} bytes, max_payload is {limit:,}: put it into a file or a bucket and send its address, "
            "or raise max_payload"
        )
    if size > LARGE:
        log.warning("%s is %s bytes: it travels through Redis; a file or a bucket would be faster", what, f"{size:,}")


def dump_part(value: Any) -> Dumped:
    """Pickle what several calls share."""
    return _encode(_dump(value))


def dump_alone(value: Any) -> bytes:
    """Pickle something small, for use inside other payloads."""
    return sources.dumps(value)


def load_call(encoding: Encoding, body: memoryview) -> Invocation:
    """Unpickle a verified call. Raises what unpickling raises."""
    return Invocation(*_load(encoding, body))


def add_remedy(exc: BaseException) -> None:
    """Something was raised on a machine: a module that its image lacks is named in a note, with the remedy."""
    if not isinstance(exc, ModuleNotFoundError) or type(exc.name) is not str:
        return
    error_text.add_note(
        exc,
        f"the worker's image has no module {exc.name!r}: add it to the image, or, if it is your own, send it with the "
        f"calls (ship=[{exc.name.split('.')[0]}]) and import it outside of the function that uses it",
    )


def dump_value(value: Any) -> Dumped:
    """Pickle what a call returned. Raises what pickling raises, with a note that names its type."""
    try:
        if type(value) in _PLAIN:
            return _encode(_COUNT.pack(0) + pickle.dumps((True, value), protocol=5))
        return _encode(_dump((True, value)))
    except BaseException as exc:
        error_text.add_note(exc, f"flyexecutor could not pickle the result, a {type(value).__qualname__}")
        if "'generator' object" in error_text.describe(exc):
            error_text.add_note(
                exc, "the items of a generator come as it yields them with ex.stream(fn, ...), or return a list"
            )
        raise


def dump_exception(exc: BaseException, traceback_text: str) -> Dumped:
    """Pickle what a call raised, with its traceback as text. Whatever it is, it is the call's outcome.

    `sys.exit` is told as the crash that it would be elsewhere. An exception that can't travel whatever is left behind
    becomes a `RemoteError` with its type and message.
    """
    said = error_text.summary(exc)
    if isinstance(exc, SystemExit):
        words = f": {error_text.describe(exc)}" if isinstance(exc.code, str) else ""
        return dump_error(
            WorkerCrashedError(f"the call ended with exit code {error_text.exit_code(exc)}{words}"), traceback_text
        )
    try:
        # A pickle in a pickle: if it can't be loaded, what is told beside it can be read all the same.
        pickled = error_text.dump(exc)
    except BaseException as failure:  # noqa: BLE001 - user code pickles itself and may raise anything
        return dump_error(_not_brought(said, failure), traceback_text)
    return _encode(_COUNT.pack(0) + pickle.dumps((False, said, pickled, traceback_text), protocol=5))


def _not_brought(said: str, failure: BaseException) -> RemoteError:
    return RemoteError(f"{said} (the exception itself can't be brought back: {error_text.describe(failure)})")


def dump_error(error: FlyExecutorError, traceback_text: str = "") -> Dumped:
    """One of our own errors, readable by every Python version."""
    installed = packages.installed() if isinstance(error, PythonMismatchError) else None
    return Dumped(Encoding.TEXT, plain.dump(error, traceback_text, installed))


def load_value(encoding: Encoding, body: memoryview) -> Any:
    """Unpickle a verified item or part. Raises what unpickling raises."""
    return _load(encoding, body)


def load_outcome(encoding: Encoding, body: memoryview) -> Result:
    """Unpickle a verified outcome. Raises what unpickling raises."""
    if encoding is Encoding.TEXT:
        read = plain.load(body)
        table = packages.differences(packages.installed(), read.packages) if read.packages else ""
        error = type(read.error)(f"{read.error}. What differs:\n{table}") if table else read.error
        return _raised(error, read.traceback)
    succeeded, *rest = _load(encoding, body)
    if succeeded:
        return Result(value=rest[0])
    said, pickled, traceback_text = rest
    try:
        exc = error_text.load(pickled)
    except Exception as failure:  # noqa: BLE001 - user code unpickles itself; or its class is not here
        exc = _not_brought(said, failure)
    return _raised(exc, traceback_text)


def _raised(exc: BaseException, traceback_text: str) -> Result:
    if traceback_text:
        error_text.give_cause(exc, traceback_text)
    return Result(exception=exc)


def _by_reference(fn: Any) -> bool:
    """Whether cloudpickle would do what pickle does faster: name a function that the other side imports."""
    if type(fn) is not types.FunctionType or fn.__module__ in {"__main__", None}:
        return False
    if _ships(fn.__module__):
        return False
    return getattr(sys.modules.get(fn.__module__), fn.__qualname__, None) is fn


def _ships(module: str) -> bool:
    by_value = cloudpickle.list_registry_pickle_by_value()
    return bool(by_value) and any(module == name or module.startswith(f"{name}.") for name in by_value)


def _load_part(part_id: str) -> Any:
    part = parts_here.get(part_id)
    if part is None:
        raise PayloadError(f"the part {part_id} of the call is not there: it expired, or was refused (see the log)")
    return _load(part.encoding, memoryview(part.body))


def _encode(body: bytes) -> Dumped:
    if len(body) >= COMPRESS_FROM:
        middle = len(body) // 2
        sample = memoryview(body)[middle : middle + SAMPLE_BYTES]
        if len(zlib.compress(sample, 1)) < WORTH_IT * SAMPLE_BYTES:
            return Dumped(Encoding.ZLIB, zlib.compress(body, 1))
    return Dumped(Encoding.PICKLE, body)


def _dump(value: Any) -> bytes:
    buffers: list[memoryview] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES:
            return True
        buffers.append(raw)
        return False

    pickled = sources.dumps(value, keep_inside)
    return b"".join((_COUNT.pack(len(buffers)), *(_LENGTH.pack(raw.nbytes) for raw in buffers), *buffers, pickled))


def _load(encoding: Encoding, body: memoryview) -> Any:
    if encoding is Encoding.ZLIB:
        body = memoryview(zlib.decompress(body))
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
