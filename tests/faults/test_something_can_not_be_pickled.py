"""Unpicklable argument or result: the future fails with the pickling error, naming the object; the worker lives."""

import threading

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
