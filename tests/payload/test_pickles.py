import os
import pickle
import sys
import threading
import types

import cloudpickle
import pytest

import tests
from flyexecutor.errors import WorkerCrashedError
from flyexecutor.payload import pickles
from tests import tasks


def load_call(dumped):
    return pickles.load_call(dumped.encoding, memoryview(dumped.body))


def there_and_back(value):
    dumped = pickles.dump_value(value)
    return pickles.load_outcome(dumped.encoding, memoryview(dumped.body))


@pytest.mark.parametrize("value", [None, 0, "text", b"bytes", [1, {"a": (2,)}], 10**40])
def test_values_come_back(value):
    assert there_and_back(value).value == value


def test_a_call_comes_back_with_its_function_and_arguments():
    invocation = load_call(pickles.dump_call(lambda a, b=0: a + b, (1,), {"b": 2}))
    assert invocation.fn(*invocation.args, **invocation.kwargs) == 3


@pytest.mark.parametrize("size", [10, pickles.OUT_OF_BAND_BYTES, 1_000_000])
def test_buffers_come_back_writable_beside_the_pickle(size):
    class Holder:
        def __init__(self, buffer):
            self.buffer = buffer

        def __reduce_ex__(self, protocol):
            return Holder, (pickle.PickleBuffer(self.buffer),)

    dumped = pickles.dump_call(Holder, (Holder(bytearray(os.urandom(size))),), {})
    (held,) = load_call(dumped).args
    held.buffer[0] = 1
    assert (held.buffer[0], len(held.buffer)) == (1, size)
    assert len(dumped.body) < size + 5_000


def goes_by_value(*modules):
    with pickles.shipping(modules):
        dumped = pickles.dump_call(tasks.increment, (1,), {})
    invocation = load_call(dumped)
    assert invocation.fn(*invocation.args) == 2
    return invocation.fn is not tasks.increment


def test_a_function_goes_by_value_while_its_module_or_package_is_shipped(monkeypatch):
    monkeypatch.setitem(sys.modules, "tests.task", types.ModuleType("tests.task"))
    assert [goes_by_value(tasks), goes_by_value(tests), goes_by_value(pickles, tasks)] == [True] * 3
    assert [goes_by_value(), goes_by_value(pickles), goes_by_value(sys.modules["tests.task"])] == [False] * 3


def test_what_the_user_registered_with_cloudpickle_stays_so_and_what_we_did_does_not():
    cloudpickle.register_pickle_by_value(tasks)
    try:
        assert goes_by_value(tasks, pickles)
        assert cloudpickle.list_registry_pickle_by_value() == {"tests.tasks"}
        with pytest.raises(ZeroDivisionError), pickles.shipping([pickles]):
            raise ZeroDivisionError
        assert cloudpickle.list_registry_pickle_by_value() == {"tests.tasks"}
    finally:
        cloudpickle.unregister_pickle_by_value(tasks)


def test_what_can_not_be_pickled_names_the_function():
    with pytest.raises(TypeError, match="lock") as raised:
        pickles.dump_call(tasks.echo, (threading.Lock(),), {})
    assert any("echo" in note for note in raised.value.__notes__)  # Python 3.14 has notes of its own


def test_the_error_of_a_result_that_can_not_be_pickled_names_its_type():
    with pytest.raises(TypeError) as raised:
        pickles.dump_value(threading.Lock())
    assert any("a lock" in note for note in raised.value.__notes__)


def test_our_own_errors_travel_as_text():
    dumped = pickles.dump_error(WorkerCrashedError("exit code 3"))
    result = pickles.load_outcome(dumped.encoding, memoryview(dumped.body))
    assert isinstance(result.exception, WorkerCrashedError)


def test_the_error_of_a_generator_as_result_names_stream():
    for result in (tasks.count_to(3), [[tasks.count_to(3)]]):
        with pytest.raises(TypeError) as raised:
            pickles.dump_value(result)
        assert any("ex.stream(fn, ...)" in note for note in raised.value.__notes__)
