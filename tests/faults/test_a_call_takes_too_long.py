"""Call over timeout: its process is stopped from outside, TimeoutError; the worker lives."""

import os
import select

import pytest
import redis

from flyexecutor import CallTimeoutError, State
from tests import tasks
from tests.wire import Wire

WAIT = 30.0


@pytest.fixture
def gate(tmp_path):
    return tasks.Gate.make(tmp_path)


@pytest.fixture
def impatient(make_executor):
    """An executor of calls that may take half a second, on a machine that has loaded their module already."""
    executor = make_executor(max_workers=1)
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2
    return executor.with_options(timeout=0.5)


def test_the_call_is_stopped_and_its_finally_blocks_run(impatient, gate):
    future = impatient.submit(tasks.hang, gate)
    gate.wait_for_entry()
    error = future.exception(WAIT)
    assert isinstance(error, CallTimeoutError)
    assert isinstance(error, TimeoutError)
    assert "timeout of 0.5 s" in str(error)
    assert (gate.folder / "finally").read_text() == "cleaned up\n"
    assert future.state() is State.FAILED


def test_a_call_whose_result_takes_too_long_to_pickle_fails_for_its_timeout(impatient, gate):
    class Result:
        def __reduce__(self):
            return str, (gate.enter(),)

    future = impatient.submit(Result)
    gate.wait_for_entry()
    assert isinstance(future.exception(WAIT), CallTimeoutError)
    assert future.state() is State.FAILED


def test_the_error_tells_where_the_call_was_and_what_it_printed(impatient, gate):
    future = impatient.submit(tasks.print_and_enter, gate, "half way")
    gate.wait_for_entry()
    error = future.exception(WAIT)
    assert "in enter" in str(error.__cause__)
    assert any("half way" in note for note in error.__notes__)


def test_a_call_that_ignores_the_signal_is_killed(impatient, gate):
    future = impatient.submit(tasks.hang_stubbornly, gate)
    gate.wait_for_entry()
    error = future.exception(WAIT)
    assert isinstance(error, CallTimeoutError)
    assert "SIGKILL" in str(error)


def test_the_worker_lives_and_calls_behind_it_run(make_executor, gate):
    executor = make_executor(max_workers=1)
    machine = executor.submit(tasks.machine_id).result(WAIT)
    late = executor.with_options(timeout=0.5).submit(tasks.hang, gate)
    behind = [executor.submit(tasks.machine_id) for _ in range(5)]
    assert {future.result(WAIT) for future in behind} == {machine}
    assert isinstance(late.exception(WAIT), CallTimeoutError)
    assert {future.attempt for future in behind} <= {1, 2}  # handed back once, at most


def test_of_a_chunk_only_the_item_that_takes_too_long_fails(impatient, gate):
    results = impatient.map(lambda n: gate.enter() if n == 2 else n, range(5), chunksize=5, return_exceptions=True)
    entries = [gate.wait_for_entry()]  # in the whole chunk, and in the parts that have it
    told = []
    while len(told) < 2:
        told.append(next(results))
    assert told == [0, 1]
    assert isinstance(next(results), CallTimeoutError)
    assert list(results) == [3, 4]
    assert entries


def test_the_call_is_killed_while_redis_is_away_and_its_outcome_kept(make_executor, local_fly, gate):
    (gate.folder / "sitecustomize.py").write_text(
        "from flyexecutor.worker import runner_process\nrunner_process.GRACE = 0.3\n"
    )
    with Wire("127.0.0.1", redis.connection.parse_url(local_fly.redis_url)["port"]) as wire:
        executor = make_executor(
            max_workers=1,
            redis_url=wire.url(local_fly.redis_url),
            env={"PYTHONPATH": f"{gate.folder}:."},
        )
        executor.submit(tasks.increment, 1).result(WAIT)  # or the time-out could end before all is imported
        future = executor.with_options(timeout=0.5).submit(tasks.hang_stubbornly, gate)
        process = os.pidfd_open(int(gate.wait_for_entry()))
        wire.refuse()
        wire.cut()
        assert select.select([process], [], [], WAIT)[0]
        os.close(process)
        wire.heal()
        error = future.exception(WAIT)
        assert isinstance(error, CallTimeoutError)
        assert "SIGKILL" in str(error)
        assert future.attempt == 1
