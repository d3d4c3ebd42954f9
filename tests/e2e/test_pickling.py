"""What travels: functions of every kind, the user's own modules, large and odd values; what is told when it can't."""

import functools
import importlib.util
import logging
import os
import sys

import pytest

from flyexecutor import PayloadTooLargeError
from tests import tasks

WAIT = 60.0


class Adder:
    def __init__(self, amount):
        self.amount = amount

    def add(self, number):
        return number + self.amount

    def __call__(self, number):
        return number + self.amount

    @classmethod
    def make(cls, amount):
        return cls(amount)

    @staticmethod
    def double(number):
        return number * 2


def outer(number):
    def inner():
        return number + 1

    return inner


@pytest.mark.parametrize(
    ("fn", "args", "expected"),
    [
        (lambda number: number + 1, (1,), 2),
        (outer(4), (), 5),
        (functools.partial(pow, 2), (5,), 32),
        (Adder(3).add, (1,), 4),
        (Adder(3), (1,), 4),
        (Adder.double, (4,), 8),
        (len, ("abc",), 3),
        (str.upper, ("abc",), "ABC"),
    ],
    ids=["lambda", "closure", "partial", "bound method", "callable object", "static method", "builtin", "descriptor"],
)
def test_functions_of_every_kind_travel(executor, fn, args, expected):
    assert executor.submit(fn, *args).result(WAIT) == expected
    assert list(executor.map(fn, *[[arg] * 3 for arg in args])) == ([expected] * 3 if args else [])


def test_an_object_of_a_class_method_comes_back(executor):
    assert executor.submit(Adder.make, 5).result(WAIT).amount == 5


@pytest.fixture
def own_module(tmp_path):
    """A module that this process has imported and no machine can."""
    (tmp_path / "private_tool.py").write_text(
        "class Tool:\n    def __init__(self, n): self.n = n\n"
        "class ToolError(Exception): pass\n"
        "def use(n): return Tool(n)\n"
        "def misuse(): raise ToolError('blunt')\n"
    )
    spec = importlib.util.spec_from_file_location("private_tool", tmp_path / "private_tool.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["private_tool"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["private_tool"]


def test_a_module_that_is_shipped_travels_with_its_classes_and_errors(make_executor, own_module):
    executor = make_executor(ship=[own_module])
    assert isinstance(executor.submit(own_module.use, 1).result(WAIT), own_module.Tool)
    assert [tool.n for tool in executor.map(own_module.use, range(3))] == [0, 1, 2]
    assert isinstance(executor.submit(own_module.misuse).exception(WAIT), own_module.ToolError)


def test_what_can_not_be_unpickled_fails_its_future_and_the_worker_lives(executor):
    error = executor.submit(tasks.return_poisoned).exception(WAIT)
    assert "this does not load" in str(error)
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2


def test_an_exception_that_can_not_be_unpickled_as_it_says_comes_back_all_the_same(executor):
    assert type(executor.submit(tasks.raise_poisoned).exception(WAIT)) is tasks.PoisonedError


def test_an_argument_that_can_not_be_unpickled_fails_its_future_and_the_worker_lives(executor):
    error = executor.submit(tasks.echo, tasks.Poisoned()).exception(WAIT)
    assert "this does not load" in str(error)
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2


def test_what_is_larger_than_max_payload_is_refused_both_ways(make_executor):
    executor = make_executor(max_payload=1_000_000)
    error = executor.submit(len, os.urandom(1_100_000)).exception(WAIT)
    assert isinstance(error, PayloadTooLargeError)
    assert "max_payload is 1,000,000" in str(error)
    assert isinstance(executor.submit(os.urandom, 1_100_000).exception(WAIT), PayloadTooLargeError)
    assert executor.submit(len, os.urandom(900_000)).result(WAIT) == 900_000


def test_a_payload_that_is_too_large_for_redis_to_like_is_warned_of(executor, caplog, monkeypatch):
    monkeypatch.setattr("flyexecutor.payload.pickles.LARGE", 1000)
    with caplog.at_level(logging.WARNING, logger="flyexecutor"):
        assert executor.submit(len, bytes(2000)).result(WAIT) == 2000
    assert "travels through Redis" in caplog.text


def test_what_shrinks_is_compressed_and_what_does_not_is_not(make_executor, local_redis):
    executor = make_executor(max_workers=1)

    def count_sent(data):
        local_redis.config_resetstat()
        assert executor.submit(tasks.echo, data).result(WAIT) == data
        return local_redis.info("stats")["total_net_input_bytes"]

    for data, least, most in ((b"abcdefgh" * 1_000_000, 0, 1_000_000), (os.urandom(8_000_000), 16_000_000, 18_000_000)):
        executor.submit(tasks.increment, 1).result(WAIT)
        # Whatever else comes to this Redis, from machines of earlier tests or since a piece was sent again, is on top.
        assert any(least <= count_sent(data) <= most for _ in range(3))


def test_an_array_is_not_copied_into_its_pickle_and_arrives_writable(executor):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1_000_000.0)

    def change(one):
        one[0] = 7
        return one

    changed = executor.submit(change, array).result(WAIT)
    assert (changed[0], changed[1], array[0]) == (7, 1, 0)
    changed[1] = 8


def test_hundreds_of_megabytes_come_back_whole(executor):
    data = os.urandom(1_000_000) * 200
    assert executor.submit(tasks.echo, bytearray(data)).result(WAIT) == data
