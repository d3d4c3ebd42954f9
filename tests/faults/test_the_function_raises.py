"""The function raises: that exception, remote traceback as cause, note with machine."""

import asyncio
import threading

import pytest

from flyexecutor import CallKilledError, CallTimeoutError, Retry
from tests import tasks

WAIT = 30.0


def test_the_exception_comes_back_with_the_remote_traceback_and_the_machine(executor):
    future = executor.submit(tasks.raise_value_error, "no good")
    with pytest.raises(ValueError, match="no good") as raised:
        future.result(WAIT)
    assert "in raise_value_error" in str(raised.value.__cause__)
    assert any(future.machine_id in note for note in raised.value.__notes__)


class CodedError(Exception):
    """Pickle could not call its constructor."""

    def __init__(self, *, code, lock):
        super().__init__(f"code {code}")
        self.code, self.lock = code, lock


class UnshowableError(Exception):
    def __repr__(self):
        raise RuntimeError("no repr")


@pytest.mark.parametrize("fan_out", [False, True])
def test_an_exception_of_a_coroutine_that_can_not_be_shown_is_the_outcome_of_its_call_alone(make_executor, fan_out):
    async def fail():
        raise UnshowableError("said")

    executor = make_executor(max_workers=1)
    if fan_out:
        (error,) = executor.starmap(fail, [()], return_exceptions=True)
    else:
        error = executor.submit(fail).exception(WAIT)
    assert (type(error), str(error)) == (UnshowableError, "said")
    assert executor.submit(tasks.add_soon, 1, 2).result(WAIT) == 3  # in the same process


@pytest.mark.parametrize("fan_out", [False, True])
def test_an_exception_comes_back_as_what_it_was_whatever_its_constructor(executor, fan_out):
    def fail(code):
        raise CodedError(code=code, lock=threading.Lock())

    if fan_out:
        error, _ = executor.map(fail, [3, 4], chunksize=2, return_exceptions=True)
    else:
        error = executor.submit(fail, 3).exception(WAIT)
    assert (type(error), error.code, str(error)) == (CodedError, 3, "code 3")
    assert "_thread.lock" in error.lock
    assert any("lock" in note for note in error.__notes__)
    assert "in fail" in str(error.__cause__)


OF_MAIN = """
class MainError(LookupError):
    __slots__ = ("code",)

    def __init__(self, *, code):
        super().__init__(f"code {code}")
        self.code = code

class MainGroup(ExceptionGroup):
    def __new__(cls, errors, code):
        made = super().__new__(cls, "some", errors)
        made.code = code
        return made

def fail(code):
    raise MainGroup([MainError(code=code)], code)
"""


def test_exceptions_of_main_come_back_as_its_own(executor):
    main = {"__name__": "__main__"}
    exec(OF_MAIN, main)  # noqa: S102
    error = executor.submit(main["fail"], 3).exception(WAIT)
    (inner,) = error.exceptions
    assert (type(error), error.message, error.code) == (main["MainGroup"], "some", 3)
    assert (type(inner), inner.code, inner.args) == (main["MainError"], 3, ("code 3",))


def test_a_frozen_exception_comes_back_with_its_note(executor):
    future = executor.submit(tasks.raise_frozen, 3)
    error = future.exception(WAIT)
    assert (type(error), error.code) == (tasks.FrozenError, 3)
    assert any(future.machine_id in note for note in error.__notes__)


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, tasks.OwnBaseError])
def test_what_derives_from_base_exception_only_is_an_outcome_like_others(executor, kind):
    future = executor.submit(tasks.raise_, kind("no good"))
    error = future.exception(WAIT)
    assert repr(error) == repr(kind("no good"))
    assert "in raise_" in str(error.__cause__)
    assert any(future.machine_id in note for note in error.__notes__)


# What its machine's log has


def test_each_call_that_raises_or_is_stopped_is_a_line_in_its_machines_log(make_executor, tmp_path, machine_output):
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    raising = executor.submit(tasks.raise_value_error, "no good")
    assert raising.exception(WAIT)
    assert raising.logs() == ""
    again = executor.with_options(retries=Retry(attempts=2, wait=0.01)).submit(tasks.raise_value_error, "no good")
    assert again.exception(WAIT)
    assert list(executor.map(tasks.fail_on, [1, 2], [1, 3], chunksize=2, return_exceptions=True))[1] == 3
    late = executor.with_options(timeout=0.5).submit(tasks.hang, gate)
    gate.wait_for_entry()
    assert isinstance(late.exception(WAIT), CallTimeoutError)
    killed = executor.submit(tasks.hang, gate)
    gate.wait_for_entry()
    killed.kill()
    assert isinstance(killed.exception(WAIT), CallKilledError)
    crashed = executor.submit(tasks.segfault)
    assert crashed.exception(WAIT)
    machine_output.wait_for("in segfault")  # it comes through other processes

    def lines(word):
        printed = machine_output.text.splitlines()
        return [line for line in printed if line.startswith(f"[{crashed.machine_id}]") and word in line]

    (line,) = lines(raising.id)
    assert line.endswith(f"flyexecutor: call {raising.id} (raise_value_error), attempt 1, raised ValueError: no good")
    first, second = lines(again.id)
    assert first.endswith("attempt 1, raised ValueError: no good; it is tried again")
    assert second.endswith("attempt 2, raised ValueError: no good")
    assert len(lines("in raise_value_error")) == 3
    assert len(lines("raised ValueError: 1 is bad, item 0 of 2 in this call")) == 1
    (line,) = lines(late.id)
    assert "(hang): the call ran longer than its timeout of 0.5 s" in line
    assert len(lines("in hang")) == 1
    (line,) = lines(killed.id)
    assert "(hang) was killed by signal SIGTERM: somebody asked for that" in line
    (line,) = lines(crashed.id)
    assert "(segfault): the process that ran the call ended with signal SIGSEGV" in line
