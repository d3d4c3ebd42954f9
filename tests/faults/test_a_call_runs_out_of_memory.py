"""Out of memory: not tried again on the same size of machine, unless that was asked for; a larger one may have it."""

import pytest

from flyexecutor import OutOfMemoryError, Retry, State
from tests import tasks

WAIT = 60.0
pytestmark = pytest.mark.usefixtures("quick_fleet")
SMALL = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}


def test_the_call_is_lost_at_once_and_the_error_names_the_remedy(make_executor):
    executor = make_executor(guest=SMALL, max_workers=1)
    future = executor.submit(tasks.need_memory, 400)
    error = future.exception(WAIT)
    assert isinstance(error, OutOfMemoryError)
    assert "larger guest" in str(error)
    assert (future.state(), future.attempt) == (State.LOST, 1)
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2


def test_a_call_that_may_grow_runs_again_on_a_machine_with_twice_the_memory(make_executor):
    executor = make_executor(guest=SMALL, max_workers=1, retries=Retry(on_oom="bigger"))
    future = executor.submit(tasks.need_memory, 400)
    assert future.result(WAIT) == 512
    assert future.attempt == 2


def test_a_call_that_has_grown_to_the_largest_machine_is_lost(make_executor):
    largest = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 2048}
    executor = make_executor(guest=largest, max_workers=1, retries=Retry(on_oom="bigger"))
    future = executor.submit(tasks.need_memory, 2200)
    assert isinstance(future.exception(WAIT), OutOfMemoryError)
    assert future.attempt == 1


@pytest.mark.parametrize("value", ["larger", None])
def test_another_word_for_on_oom_is_refused(value):
    with pytest.raises(ValueError, match="on_oom is"):
        Retry(on_oom=value)
