"""Unpicklable argument or result: the future fails with the pickling error, naming the object; the worker lives."""

import threading

import pytest

from flyexecutor import State
from tests import tasks

WAIT = 30.0


def test_an_argument_that_can_not_be_pickled_fails_its_future_and_not_submit(executor):
    error = executor.submit(tasks.echo, threading.Lock()).exception(WAIT)
    assert isinstance(error, TypeError)
    assert "lock" in str(error)
    assert "echo" in "".join(error.__notes__)


def test_a_result_that_can_not_be_pickled_fails_its_future_and_the_worker_lives(executor):
    future = executor.submit(tasks.return_unpicklable)
    error = future.exception(WAIT)
    assert "this object stays here" in str(error)
    assert "Unpicklable" in "".join(error.__notes__)
    assert future.state() is State.FAILED
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2


@pytest.mark.parametrize("fan_out", [False, True])
def test_a_generator_as_result_names_the_way_to_have_its_items(executor, fan_out):
    if fan_out:
        error, _ = executor.map(tasks.count_to, [3, 4], chunksize=2, return_exceptions=True)
    else:
        error = executor.submit(tasks.count_to, 3).exception(WAIT)
    assert isinstance(error, TypeError)
    assert any("ex.stream(fn, ...)" in note for note in error.__notes__)
    assert list(executor.stream(tasks.count_to, 3)) == [0, 1, 2]
