"""What a call raised, to text, to bytes and back (steps 7 and 9). No I/O.

Pickle makes an exception anew by calling its class with `args`. Many a constructor takes other arguments, or makes its
message of them, a second time. So an exception is taken apart here, and put together without its constructor: its
class, `args`, `__dict__`, slots, and what its C base holds. A class that says itself how it is pickled is left to that,
as long as that works. What can't be pickled of an exception is left behind; what repr() says of it takes its place.
"""

import contextlib
import copyreg
import io
import pickle
import traceback
import types
from typing import Any

from flyexecutor.names import visible
from flyexecutor.payload import sources

REPR_CHARS = 200
_HOW = frozenset({"__reduce__", "__reduce_ex__", "__setstate__"})
_STATIC = 1 << 9  # not set: the type is static, one of the interpreter's own (CPython: Py_TPFLAGS_HEAPTYPE)


class RemoteTraceback(Exception):
    """The `__cause__` of an exception that a call raised: the traceback on its machine, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def tell(exc: BaseException | None) -> str:
    """An exception with its traceback, as text."""
    if exc is None:
        return ""
    try:
        with sources.hidden():
            return "".join(traceback.format_exception(exc))
    except BaseException as failure:  # noqa: BLE001 - user code; or a SyntaxError whose line is no text
        return f"{summary(exc)} (its traceback can't be told: {describe(failure)})\n"


def summary(exc: BaseException) -> str:
    """An exception's class and what it says."""
    return f"{type(exc).__qualname__}: {describe(exc)}"


def describe(exc: BaseException) -> str:
    """What an exception says; whoever wrote it may have made a mistake there."""
    try:
        return str.__str__(str(exc))  # which may be a text of a class of theirs: it would be asked again
    except BaseException as failure:  # noqa: BLE001 - user code
        return f"(its str() raised {type(failure).__qualname__})"


def exit_code(exc: SystemExit) -> int:
    """The exit code of a process that ends with this, as the interpreter has it."""
    return exc.code if isinstance(exc.code, int) else int(exc.code is not None)


def add_note(exc: BaseException, note: str) -> None:
    """As its `add_note`, also if its class is frozen. Not a second time; not if something else is where notes go."""
    note = visible(note)
    notes = _dict.__get__(exc).setdefault("__notes__", [])
    if type(notes) is list and note not in [text for text in notes if type(text) is str]:
        notes.append(note)


def give_cause(exc: BaseException, traceback_text: str) -> None:
    """Have a traceback from a machine for its cause."""
    _cause.__set__(exc, RemoteTraceback(visible(sources.show(traceback_text))))


def dump(exc: BaseException) -> bytes:
    """Pickle an exception, and try whether it can be loaded. Raises what that raises if it can't be brought whatever is
    left behind: its class can't travel.
    """
    try:
        return _dump(exc, apart=False)
    except BaseException:  # noqa: BLE001 - user code pickles itself and may raise anything
        return _dump(exc, apart=True)


def load(data: bytes) -> BaseException:
    """Put an exception together. Raises what unpickling raises; TypeError if it is none."""
    exc = pickle.loads(data)
    if not isinstance(exc, BaseException):
        raise TypeError(f"unpickled, it is no exception but {_repr(exc)}")
    return exc


def _dump(exc: BaseException, *, apart: bool) -> bytes:
    file = io.BytesIO()
    _Pickler(file, apart).dump(exc)
    load(file.getvalue())
    return file.getvalue()


class _Pickler(sources.Pickler):
    """Takes exceptions apart, wherever they are in what is pickled.

    apart: all of them, whatever their classes say, and with a look at each piece: whether it can be pickled.
    """

    def __init__(self, file: io.BytesIO, apart: bool) -> None:
        super().__init__(file, protocol=5)
        self._apart = apart

    def reducer_override(self, value: Any) -> Any:
        """For pickle: how a value is pickled."""
        cls = type(value)
        if issubclass(cls, BaseException) and (self._apart or not _says_how(cls)):
            return self._take_apart(value)
        return super().reducer_override(value)

    def _take_apart(self, exc: BaseException) -> tuple[Any, ...]:
        args = list(_args.__get__(exc))
        held = dict(_dict.__get__(exc))
        held |= {name: value for name, field in _fields(type(exc)).items() if (value := _get(field, exc)) is not _UNSET}
        if self._apart:
            left: list[str] = []
            args = [_portable(value, f"args[{n}]", left) for n, value in enumerate(args)]
            held = {name: _portable(value, name, left) for name, value in held.items()}
            if left:
                note = f"what can't be pickled of it was left on its machine, here is its repr(): {', '.join(left)}"
                notes = held.get("__notes__")
                held["__notes__"] = [*(notes if type(notes) is list else ()), note]
        made_of: tuple[Any, ...] = (type(exc),)
        if isinstance(exc, BaseExceptionGroup):
            made_of += (_message.__get__(exc), _exceptions.__get__(exc))
        # The state comes after the object: there may be circles through all of it.
        return _make, made_of, (args, held), None, None, _restore


class _Trial(sources.Pickler):
    """Tries whether a piece of an exception can be pickled; exceptions in it are another piece."""

    def reducer_override(self, value: Any) -> Any:
        """For pickle: how a value is pickled."""
        return (types.NoneType, ()) if issubclass(type(value), BaseException) else super().reducer_override(value)


def _portable(value: Any, name: str, left: list[str]) -> Any:
    """A value, or what repr() says of it if it can't be pickled."""
    try:
        file = io.BytesIO()
        _Trial(file, protocol=5).dump(value)
        pickle.loads(file.getvalue())
    except BaseException as failure:  # noqa: BLE001 - user code pickles itself and may raise anything
        left.append(f"{name} ({describe(failure)[:REPR_CHARS]})")
        return _repr(value)
    return value


def _repr(value: Any) -> str:
    try:
        return repr(value)[:REPR_CHARS]
    except BaseException:  # noqa: BLE001 - user code
        return f"<{type(value).__qualname__}>"


# What Python's own exceptions hold is read and set past anything that a subclass has put before it.
_args: Any = vars(BaseException)["args"]
_dict: Any = vars(BaseException)["__dict__"]
_cause: Any = vars(BaseException)["__cause__"]
_message: Any = vars(BaseExceptionGroup)["message"]
_exceptions: Any = vars(BaseExceptionGroup)["exceptions"]
_UNSET = object()


def _says_how(cls: type) -> bool:
    """Whether somebody has said how exceptions of this class are pickled, and not only Python for its own."""
    if cls in copyreg.dispatch_table:
        return True
    return any(base.__module__ != "builtins" and not _HOW.isdisjoint(vars(base)) for base in cls.__mro__)


def _fields(cls: type) -> dict[str, Any]:
    """What exceptions of a class hold outside their `__dict__`: slots, and the fields of C code."""
    kinds = (types.MemberDescriptorType, types.GetSetDescriptorType)
    return {
        name: field
        for base in reversed(cls.__mro__)
        if base not in {BaseException, BaseExceptionGroup, object}
        for name, field in vars(base).items()
        if isinstance(field, kinds) and not (name.startswith("__") and name.endswith("__"))
        # Not the object that lacked an attribute: it may be anything, and large. Python leaves it behind as well.
        if (base, name) != (AttributeError, "obj")
    }


def _get(field: Any, exc: BaseException) -> Any:
    try:
        value = field.__get__(exc)
    except Exception:  # noqa: BLE001 - it holds nothing there, and says so in many ways
        return _UNSET
    # Python shows what an exception of its own does not hold as None, but tells the two apart in its message.
    own = not field.__objclass__.__flags__ & _STATIC
    return _UNSET if own and value is None else value


def _make(cls: type, *args: Any) -> Any:
    """An empty exception, made by what makes those of its C base: no code of its class runs."""
    base: Any = cls
    while not isinstance(make := vars(base).get("__new__"), types.BuiltinFunctionType):
        base = base.__base__
    return make(cls, *args)


def _restore(exc: BaseException, state: tuple[list[Any], dict[str, Any]]) -> None:
    args, held = state
    _args.__set__(exc, tuple(args))
    fields, attributes = _fields(type(exc)), _dict.__get__(exc)
    for name, value in held.items():
        # By the class as it is here: cloudpickle brings one with slots as one without.
        if name not in fields:
            attributes[name] = value
            continue
        with contextlib.suppress(AttributeError, TypeError):  # computed from others, and can't be set
            fields[name].__set__(exc, value)
