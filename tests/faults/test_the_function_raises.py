"""The function raises: that exception, remote traceback as cause, note with machine."""

import asyncio

import pytest

from tests import tasks

WAIT = 30.0


def test_the_exception_comes_back_with_the_remote_traceback_and_the_machine(executor):
    future = executor.submit(tasks.raise_value_error, "no good")
    with pytest.raises(ValueError, match="no good") as raised:
        future.result(WAIT)
    assert "in raise_value_error" in str(raised.value.__cause__)
    assert any(future.machine_id in note for note in raised.value.__notes__)


def test_an_exception_that_can_not_be_unpickled_is_told_with_its_traceback(executor):
    error = executor.submit(tasks.raise_odd_error).exception(WAIT)
    assert "OddError: 1 and 2" in str(error)
    assert "in raise_odd_error" in str(error.__cause__)


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, tasks.OwnBaseError])
def test_what_derives_from_base_exception_only_is_an_outcome_like_others(executor, kind):
    future = executor.submit(tasks.raise_, kind("no good"))
    error = future.exception(WAIT)
    assert repr(error) == repr(kind("no good"))
    assert "in raise_" in str(error.__cause__)
    assert any(future.machine_id in note for note in error.__notes__)
