"""os._exit, segfault: that call fails with how it died; its process is replaced; others go on. sys.exit fails alike."""

import os
import signal
import sys
import threading

import pytest

from flyexecutor import WorkerCrashedError
from tests import tasks

WAIT = 30.0


@pytest.mark.parametrize(
    ("fn", "args", "death"),
    [
        (tasks.exit_with, (3,), "exit code 3"),
        (tasks.exit_at_once, (4,), "exit code 4"),
        (tasks.segfault, (), "signal SIGSEGV"),
    ],
)
def test_the_call_fails_and_those_before_and_behind_it_do_not(make_executor, fn, args, death):
    executor = make_executor(max_workers=1)
    list(executor.map(tasks.increment, range(300)))  # calls are short: the worker now gives several ahead
    before = [executor.submit(tasks.increment, n) for n in range(20)]
    bad = executor.submit(fn, *args)
    behind = [executor.submit(tasks.increment, n) for n in range(20)]
    error = bad.exception(WAIT)
    assert isinstance(error, WorkerCrashedError)
    assert death in str(error)
    assert [future.result(WAIT) for future in before + behind] == [*range(1, 21), *range(1, 21)]
    assert {future.attempt for future in before} == {1}


def test_the_error_tells_where_a_segfault_was_and_what_had_been_printed(executor):
    def crash():
        print("about to crash")
        tasks.segfault()

    future = executor.submit(crash)
    error = future.exception(WAIT)
    assert "Segmentation fault" in str(error.__cause__)
    assert "in segfault" in str(error.__cause__)
    assert any("about to crash" in note for note in error.__notes__)
    assert future.logs() == "about to crash\n"


def test_a_thread_that_goes_on_does_not_keep_the_call_from_ending(executor):
    def leave():
        threading.Thread(target=signal.pause).start()
        sys.exit("done here")

    error = executor.submit(leave).exception(WAIT)
    assert isinstance(error, WorkerCrashedError)
    assert "exit code 1" in str(error)
    assert any("done here" in note for note in error.__notes__)


@pytest.mark.parametrize("junk", [b"", b"\xff\xff\xff\xff junk", b"\0\0\0\3abc"])
def test_a_call_that_spoils_the_pipe_to_its_worker_costs_no_other_call(make_executor, junk):
    executor = make_executor(max_workers=1)
    machine = executor.submit(tasks.machine_id).result(WAIT)

    def spoil():
        for fd in range(3, 30):
            try:
                os.write(fd, junk) if junk else os.close(fd)
            except OSError:
                continue
        signal.pause()

    bad, behind = executor.submit(spoil), executor.submit(tasks.machine_id)
    error = bad.exception(WAIT)
    assert isinstance(error, WorkerCrashedError)
    assert "had closed the pipe to its worker" in str(error)
    assert behind.result(WAIT) == machine
    assert bad.attempt == 1
