"""A machine dies, or is stopped or destroyed by hand: calls run again up to `retries`, then MachineLostError."""

import pytest

from flyexecutor import MachineLostError, State
from tests import tasks

WAIT = 60.0
pytestmark = pytest.mark.usefixtures("quick_fleet")


def test_a_call_whose_worker_is_killed_runs_again_when_fly_restarts_the_machine(make_executor, tmp_path, machine_api):
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    future = executor.submit(gate.enter)
    machine_api(gate.wait_for_entry(), "signal", signal="SIGKILL")
    again = gate.wait_for_entry()
    gate.open()
    assert (future.result(WAIT), future.attempt) == (again, 2)


@pytest.mark.parametrize(("action", "body"), [("stop", {"signal": "SIGKILL"}), ("destroy", {})])
def test_a_call_runs_again_when_its_machine_is_ended_by_hand(make_executor, tmp_path, machine_api, action, body):
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    future = executor.submit(gate.enter)
    machine_api(gate.wait_for_entry(), action, **body)
    again = gate.wait_for_entry()
    gate.open()
    assert (future.result(WAIT), future.attempt) == (again, 2)


def test_a_call_without_retries_is_lost_with_its_machine(make_executor, tmp_path, machine_api):
    executor = make_executor(max_workers=1, retries=0)
    gate = tasks.Gate.make(tmp_path)
    future = executor.submit(gate.enter)
    machine_id = gate.wait_for_entry()
    machine_api(machine_id, "signal", signal="SIGKILL")
    error = future.exception(WAIT)
    assert isinstance(error, MachineLostError)
    assert machine_id in str(error)
    assert future.state() is State.LOST


def test_a_call_that_kills_every_machine_ends_after_its_retries(make_executor):
    future = make_executor(max_workers=1, retries=1).submit(tasks.kill_own_worker)
    assert isinstance(future.exception(WAIT), MachineLostError)
    assert future.attempt == 2


def test_a_machine_that_is_asked_to_stop_finishes_what_runs_and_hands_back_the_rest(
    make_executor, tmp_path, machine_api
):
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    running = executor.submit(gate.enter)
    behind = executor.submit(tasks.increment, 1)
    machine_api(gate.wait_for_entry(), "stop")
    gate.open()
    assert running.result(WAIT)
    assert running.attempt == 1
    assert behind.result(WAIT) == 2
