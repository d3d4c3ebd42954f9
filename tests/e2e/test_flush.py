"""After `flush` nothing depends on the client any longer: what it has submitted is stored, and somebody will run it."""

import os
import signal
import subprocess
import sys

import pytest

from flyexecutor import FlyMachineExecutor, LocalFly, MachineStartError
from tests import tasks

WAIT = 30.0

CLIENT = """
import os, signal, sys
from flyexecutor import FlyMachineExecutor
from tests import tasks
ex = FlyMachineExecutor(max_workers=1, idle_timeout=0.2, env={"TEST": sys.argv[1]})
future = ex.submit(tasks.increment, 1)
ex.flush(20)
os.write(1, future.id.encode())
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def inject(local_fly):
    """Lets the Machines API go wrong until the test ends."""
    yield local_fly.inject
    local_fly.inject()


@pytest.fixture
def slow_api(inject):
    """Each answer of the Machines API takes half a second."""
    inject(latency=(0.5, 0.5))


def flush_and_die(local_fly, name):
    environ = {**os.environ, **local_fly.environ(), "PYTHONPATH": os.getcwd()}
    died = subprocess.run(
        [sys.executable, "-c", CLIENT, name], env=environ, stdout=subprocess.PIPE, text=True, timeout=WAIT, check=False
    )
    assert died.returncode == -signal.SIGKILL
    return died.stdout


def test_a_call_runs_though_its_client_is_killed_when_flush_returns(local_fly, executor, request, slow_api):
    call_id = flush_and_die(local_fly, request.node.nodeid)
    # This executor is of another lane: it can't start what the call needs.
    assert executor.future(call_id).result(10) == 2


def test_a_resting_machine_is_asked_for_before_flush_returns(
    local_fly, make_executor, executor, request, inject, until, states
):
    rested = make_executor(max_workers=1, idle_timeout=0.2)
    rested.submit(tasks.increment, 1).result(WAIT)
    until(lambda: states(rested) == ["suspended"])
    rested.shutdown()
    inject(latency=(0.5, 0.5))
    call_id = flush_and_die(local_fly, request.node.nodeid)
    assert executor.future(call_id).result(10) == 2


def test_flush_tells_that_the_calls_are_stored_and_no_machine_was_had(make_executor, inject, until, caplog):
    inject(no_capacity=["iad"])
    executor = make_executor(regions=["iad"])
    future = executor.submit(tasks.increment, 1)
    until(lambda: "no machine yet" in caplog.text)
    with pytest.raises(MachineStartError, match=r"the calls are stored.*no machine could be created in iad"):
        executor.flush(1.0)
    assert not future.done()
    inject()
    executor.flush(WAIT)
    assert future.result(WAIT) == 2


def test_flush_does_not_count_on_a_machine_that_another_client_is_still_asking_for(make_executor, inject, quick_fleet):
    inject(latency=(2.0, 2.0))
    other, executor = make_executor(max_workers=1), make_executor(max_workers=1)
    other.submit(tasks.increment, 1)
    with pytest.raises(MachineStartError):
        other.flush(0.1)  # stored, with the only reservation that there may be
    executor.submit(tasks.increment, 1)
    with pytest.raises(MachineStartError):
        executor.flush(0.1)
    inject()
    executor.flush(WAIT)


def test_flush_without_a_limit_ends_with_the_calls_that_no_machine_can_be_had_for(make_executor):
    executor = make_executor(token="wrong-token-x")
    future = executor.submit(tasks.increment, 1)
    executor.flush()
    assert isinstance(future.exception(WAIT), MachineStartError)


def test_flush_asks_nothing_of_fly_while_a_worker_is_awake():
    # A Fly of its own: machines of other tests ask, too, when they come to rest.
    with (
        LocalFly(rate_limits=False) as fly,
        FlyMachineExecutor(local=fly, max_workers=1, idle_timeout=30.0) as executor,
    ):
        executor.submit(tasks.increment, 1).result(WAIT)
        before = fly.requests()
        executor.submit(tasks.increment, 2)
        executor.flush(WAIT)
        assert fly.requests() == before
