"""Exceptions of every kind, there and back: as what they were, and without their constructors."""

import errno
import io
import json
import sys
import threading
import types
import urllib.error
from dataclasses import dataclass

import pytest
import requests

from flyexecutor.errors import MachineStartError, RemoteError
from flyexecutor.payload import error_text as told
from flyexecutor.payload import pickles
from tests import tasks


def there_and_back(exc):
    """As a call's outcome: raised, dumped in a runner, loaded by a client."""
    try:
        tasks.raise_(exc)
    except BaseException as raised:  # noqa: BLE001
        dumped = pickles.dump_exception(raised, told.tell(raised))
    result = pickles.load_outcome(dumped.encoding, memoryview(dumped.body))
    assert f"{type(exc).__qualname__}" in str(result.exception.__cause__)
    return result.exception


class KeywordError(Exception):
    def __init__(self, *, code):
        super().__init__(f"code {code}")
        self.code = code


class ComputedError(Exception):
    """Pickle would say it twice."""

    def __init__(self, what):
        super().__init__(f"bad {what}")


class SilentError(Exception):
    """Its constructor does not tell its base."""

    def __init__(self, one, two=2):
        self.both = (one, two)


class StrictlyMadeError(Exception):
    def __new__(cls, *, code):
        made = super().__new__(cls)
        made.code = code
        return made

    def __init__(self, *, code): ...


class SlotsError(Exception):
    __slots__ = ("__private", "code", "never")

    def __init__(self, *, code):
        super().__init__("slots")
        self.code = code
        self.__private = None

    @property
    def private(self):
        return self.__private


class FileError(OSError):
    def __init__(self, path, *, reason):
        super().__init__(errno.ENOENT, reason, path)
        self.path = path


class MixedError(ValueError, OSError):
    def __init__(self, *, code):
        super().__init__(code, "mixed")


class DecodingError(UnicodeDecodeError):
    def __init__(self, data):
        super().__init__("utf-8", data, 0, 1, "no text")


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int
    text: str = "frozen"


class WrapperError(Exception):
    def __init__(self, inner, /):
        super().__init__("wrapped")
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


class LockedError(Exception):
    """What it holds stays where it is."""

    def __init__(self, code, lock):
        super().__init__("locked", lock)
        self.code, self.lock = code, lock


class RefusingError(Exception):
    def __reduce__(self):
        raise TypeError("not me")


class LyingError(Exception):
    def __reduce__(self):
        return int, ()


class OwnError(Exception):
    """Knows how it is pickled, and wants its constructor."""

    made = 0

    def __init__(self, *, code):
        super().__init__(f"own {code}")
        self.code = code
        type(self).made += 1

    def __reduce__(self):
        return _make_own, (self.code,)


def _make_own(code):
    return OwnError(code=code)


class StatefulError(Exception):
    def __setstate__(self, state):
        self.restored = state


class OddGroup(ExceptionGroup):
    def __new__(cls, errors, code):
        return super().__new__(cls, f"odd {code}", errors)

    def __init__(self, errors, code):
        self.code = code

    def derive(self, errors):
        return OddGroup(errors, self.code)


@pytest.mark.parametrize(
    "exc",
    [
        KeywordError(code=3),
        ComputedError("luck"),
        SilentError("one"),
        FileError("/nowhere", reason="lost"),
        MixedError(code=4),
        DecodingError(b"\xff"),
        FrozenError(5),
        OwnError(code=6),
        ValueError("plain", 1, None),
        KeyError("key"),
        FileNotFoundError(errno.ENOENT, "No such file", "/a", None, "/b"),
        OSError("no number"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text"),
        UnicodeEncodeError("ascii", "\xfc", 0, 1, "no"),
        ImportError("no", name="tool", path="/tool"),
        SyntaxError("wrong", ("file", 1, 2, "text", 1, 3)),
        StopIteration(7),
        MachineStartError("none", 429, "request", phase="boot", region="fra"),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_an_exception_comes_back_as_what_it_was(exc):
    back = there_and_back(exc)
    assert type(back) is type(exc)
    assert (str(back), back.args) == (str(exc), exc.args)
    assert vars(back) == vars(exc)
    for name in ("errno", "strerror", "filename", "filename2", "reason", "start", "name", "path", "lineno", "value"):
        assert getattr(back, name, None) == getattr(exc, name, None)


def test_what_was_set_later_comes_back_too():
    exc = FileNotFoundError(errno.ENOENT, "No such file", "/a")
    exc.filename, exc.code = "/b", 3
    exc.add_note("look there")
    back = there_and_back(exc)
    assert (back.filename, back.code, back.__notes__) == ("/b", 3, ["look there"])


def test_the_object_that_lacked_an_attribute_stays_where_it_is():
    with pytest.raises(AttributeError) as raised:
        threading.Lock().missing  # noqa: B018
    back = there_and_back(raised.value)
    assert (type(back), str(back), back.name, back.obj) == (AttributeError, str(raised.value), "missing", None)
    assert not hasattr(back, "__notes__")


def test_slots_come_back_with_what_they_hold():
    back = there_and_back(SlotsError(code=3))
    assert (type(back), back.code, back.private) == (SlotsError, 3, None)
    assert not hasattr(back, "never")


def test_an_exception_with_a_strict_new_comes_back():
    back = there_and_back(StrictlyMadeError(code=3))
    assert (type(back), back.code) == (StrictlyMadeError, 3)


def test_a_frozen_exception_takes_a_note():
    exc = FrozenError(3)
    told.add_note(exc, "one")
    told.add_note(exc, "two")
    assert there_and_back(exc).__notes__ == ["one", "two"]
    exc = ValueError()
    exc.__notes__ = "user code"
    told.add_note(exc, "three")
    assert exc.__notes__ == "user code"


def test_one_that_delegates_to_what_it_wraps_comes_back():
    back = there_and_back(WrapperError(KeywordError(code=3)))
    assert (type(back), type(back.inner), back.code) == (WrapperError, KeywordError, 3)


def test_a_class_that_says_how_it_is_pickled_is_left_to_that():
    exc = OwnError(code=3)
    made = OwnError.made
    assert there_and_back(exc).code == 3
    assert OwnError.made > made
    assert there_and_back(StatefulError("x")).args == ("x",)


@pytest.mark.parametrize("kind", [RefusingError, LyingError])
def test_one_that_says_it_wrong_comes_back_all_the_same(kind):
    back = there_and_back(kind("told", 3))
    assert (type(back), back.args) == (kind, ("told", 3))


def test_a_json_error_and_one_of_requests_come_back():
    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads("{")
    back = there_and_back(raised.value)
    assert (type(back), back.pos, back.doc) == (json.JSONDecodeError, 1, "{")

    response = requests.Response()
    response.status_code, response.raw = 404, io.BytesIO(b"not here")
    back = there_and_back(requests.HTTPError("404", response=response))
    assert (type(back), back.response.status_code, back.response.text) == (requests.HTTPError, 404, "not here")


def test_a_group_comes_back_with_all_that_is_in_it():
    exc = BaseExceptionGroup(
        "outer",
        [ExceptionGroup("inner", [KeywordError(code=1), LockedError(2, threading.Lock())]), KeyboardInterrupt()],
    )
    back = there_and_back(exc)
    assert (type(back), back.message) == (BaseExceptionGroup, "outer")
    inner, interrupt = back.exceptions
    assert (type(inner), inner.message, type(interrupt)) == (ExceptionGroup, "inner", KeyboardInterrupt)
    assert [type(one) for one in inner.exceptions] == [KeywordError, LockedError]
    assert [one.code for one in inner.exceptions] == [1, 2]


def test_a_group_of_ones_own_comes_back():
    back = there_and_back(OddGroup([KeywordError(code=1)], 3))
    assert (type(back), back.message, back.code, back.exceptions[0].code) == (OddGroup, "odd 3", 3, 1)
    assert type(back.split(KeywordError)[0]) is OddGroup


def test_what_can_not_be_pickled_of_it_is_left_behind_and_a_note_tells():
    lock = threading.Lock()
    back = there_and_back(LockedError(3, lock))
    assert (type(back), back.code) == (LockedError, 3)
    assert (back.lock, back.args) == (repr(lock), ("locked", repr(lock)))
    (note,) = back.__notes__
    assert "lock" in note
    assert "args[1]" in note


def test_an_http_error_comes_back_without_its_connection():
    with open(__file__, "rb") as connection:
        exc = urllib.error.HTTPError("http://x", 404, "gone", {"a": "b"}, connection)
        back = there_and_back(exc)
        exc.close()
    assert (type(back), back.code, back.reason, back.hdrs) == (urllib.error.HTTPError, 404, "gone", {"a": "b"})
    assert str(back) == "HTTP Error 404: gone"


def test_circles_come_back():
    exc, other = KeywordError(code=1), KeywordError(code=2)
    exc.other, other.other = other, exc
    exc.args = (exc, [other])
    exc.__cause__, other.__cause__ = other, exc
    back = there_and_back(exc)
    assert back.other.other is back
    assert back.args[0] is back
    assert back.args[1] == [back.other]


def test_circles_around_what_can_not_be_pickled_come_back():
    errors = [KeywordError(code=n) for n in range(50)]
    for one in errors:
        one.others, one.frame = errors, sys._getframe()
    back = there_and_back(errors[0])
    assert [one.code for one in back.others] == list(range(50))
    assert back.others[0] is back


def test_a_chain_that_is_too_deep_to_be_pickled_is_told():
    exc = KeywordError(code=0)
    for n in range(5000):
        outer = KeywordError(code=n)
        outer.inner, exc = exc, outer
    assert isinstance(there_and_back(exc), KeywordError | RemoteError)


def test_a_class_of_main_comes_back_as_the_same_class():
    main = types.ModuleType("__main__")
    exec(  # noqa: S102
        "class MainError(ValueError):\n"
        "    __slots__ = ('code',)\n"
        "    def __init__(self, *, code):\n"
        "        super().__init__('main')\n"
        "        self.code = code\n",
        main.__dict__,
    )
    back = there_and_back(main.MainError(code=3))
    assert (type(back), back.code) == (main.MainError, 3)


def test_a_class_that_can_not_travel_becomes_a_remote_error_that_tells_it():
    class HereError(Exception):
        lock = threading.Lock()

    back = there_and_back(HereError("here"))
    assert isinstance(back, RemoteError)
    assert "HereError: here (the exception itself can't be brought back: " in str(back)


def test_a_class_that_the_client_lacks_becomes_a_remote_error_with_its_traceback(monkeypatch):
    module = types.ModuleType("of_the_image")
    exec("class ToolError(Exception): pass", module.__dict__)  # noqa: S102
    monkeypatch.setitem(sys.modules, "of_the_image", module)
    dumped = pickles.dump_exception(module.ToolError("blunt"), "ToolError: blunt")
    monkeypatch.delitem(sys.modules, "of_the_image")
    error = pickles.load_outcome(dumped.encoding, memoryview(dumped.body)).exception
    assert isinstance(error, RemoteError)
    assert "ToolError: blunt" in str(error)
    assert "of_the_image" in str(error)
    assert "ToolError: blunt" in str(error.__cause__)


class OddText(str):
    def __format__(self, spec):
        raise ValueError("not to be shown in another text")


class OddlySpokenError(Exception):
    def __str__(self):
        return OddText("said")


def test_what_an_exception_says_may_be_a_text_of_a_class_of_its_own():
    assert told.summary(OddlySpokenError()) == "OddlySpokenError: said"
    assert type(there_and_back(OddlySpokenError())) is OddlySpokenError
