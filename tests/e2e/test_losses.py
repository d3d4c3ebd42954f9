"""What happens to machines behind the client's back, and what clients leave behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from flyexecutor import MachineStartError
from flyexecutor.fleet.api import MachinesClient
from flyexecutor.store.lanes import LaneStore
from tests import tasks

WAIT = 60.0
pytestmark = pytest.mark.usefixtures("quick_fleet")


def test_a_machine_whose_host_vanishes_loses_its_call_to_another(make_executor, hold, local_fly, until):
    executor = make_executor(max_workers=1)
    (future,), let_go = hold(executor, 1)
    lost = until(lambda: future.info().machine_id)  # stats count a call that is only being claimed
    local_fly.lose_host(lost)
    until(lambda: future.info().attempt == 2, WAIT)
    (machine,) = let_go()
    assert machine != lost


def test_machines_that_a_crashed_client_left_are_reaped_and_nobody_elses(make_executor, local_fly, until):
    executor = make_executor(idle_timeout=0.2, max_workers=1)
    ours = executor.submit(tasks.machine_id).result(WAIT)
    until(lambda: [m.state for m in executor.machines() if m.id == ours] == ["suspended"])
    api = MachinesClient(local_fly.api_url, local_fly.app, local_fly.token)
    command = {"image": local_fly.image, "init": {"exec": ["sleep", "600"]}}
    foreign = api.create("somebody-elses", command, None, "x")
    other_key = api.create(
        "other-key", {**command, "metadata": {"flyexecutor": "lane", "flyexecutor_owner": "o"}}, None, "x"
    )
    try:
        until(lambda: api.get(foreign.id).state == "started")
        assert ours not in {m.id for m in executor.reap()}  # its lane was used just now
        assert {m.id for m in executor.reap(older_than=0.0)} >= {ours}
        until(lambda: ours not in {m.id for m in api.list_all(attempts=1)})
        assert other_key.id in {m.id for m in api.list_all(attempts=1)}
        assert api.get(foreign.id).state == "started"
    finally:
        for machine in (foreign, other_key):
            api.destroy(machine.id, force=True)
        api.close()


def test_a_client_whose_clock_is_ahead_reaps_nothing_that_was_prepared_just_now(make_executor, monkeypatch):
    executor = make_executor(max_workers=1)
    executor.prepare(1)
    ahead = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: ahead)
    lane = executor._lane.name
    assert [m.state for m in executor.reap() if m.lane == lane] == []
    assert [m.state for m in executor.machines() if m.lane == lane] == ["suspended"]


CLIENT = """
import signal, sys
from pathlib import Path
from flyexecutor import FlyMachineExecutor
from tests import tasks
ex = FlyMachineExecutor(max_workers=1, idle_timeout=0.5, env={"TEST": sys.argv[2]})
future = ex.submit(tasks.Gate(Path(sys.argv[1])).enter)
ex.flush(20)
print(future.id, flush=True)
signal.pause()
"""


def test_another_client_watches_on_when_the_one_that_did_dies(local_fly, make_executor, tmp_path, machine_api, request):
    gate = tasks.Gate.make(tmp_path)
    environ = {**os.environ, **local_fly.environ(), "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(tmp_path), request.node.nodeid],
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        call_id = client.stdout.readline().strip()
        machine = gate.wait_for_entry()
        executor = make_executor(max_workers=1, idle_timeout=0.5)
        future = executor.future(call_id)
        client.send_signal(signal.SIGKILL)
    machine_api(machine, "destroy")
    again = gate.wait_for_entry()
    gate.open()
    assert future.result(WAIT) == again != machine


def test_no_room_in_a_region_is_no_room_in_all(make_executor, local_fly):
    local_fly.inject(no_capacity=["iad"])
    try:
        executor = make_executor(regions=["iad", "fra"], max_workers=1)
        assert executor.submit(tasks.environment, "FLY_REGION").result(WAIT) == "fra"
    finally:
        local_fly.inject()


def test_no_room_anywhere_is_told_with_phase_status_and_region(make_executor, local_fly):
    local_fly.inject(no_capacity=["iad"])
    try:
        error = make_executor(regions=["iad"], boot_timeout=1.0).submit(tasks.increment, 1).exception(WAIT)
    finally:
        local_fly.inject()
    assert isinstance(error, MachineStartError)
    assert (error.phase, error.region) == ("create", "iad")
    assert error.status in {409, 412, 422}


@pytest.fixture
def never_joins(tmp_path):
    """The environment of a machine whose worker does not even begin."""
    (tmp_path / "sitecustomize.py").write_text("import signal\nsignal.pause()\n")
    return {"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}


def test_a_machine_that_somebody_waits_for_is_no_orphan_however_long_it_boots(
    make_executor, never_joins, until, states, monkeypatch
):
    monkeypatch.setattr("flyexecutor.fleet.stock.RUNS_FOR_NOBODY", 0.0)
    monkeypatch.setattr("flyexecutor.fleet.stock.RESTS_WITHIN", 0.0)
    executor = make_executor(env=never_joins, max_workers=1, boot_timeout=WAIT)
    executor.submit(tasks.increment, 1)
    lane, store = executor._lane.name, executor._client.store
    until(lambda: states(executor) == ["started"])
    (machine,) = [m.id for m in executor.machines() if m.lane == lane]
    until(lambda: store.is_counted_on(lane, machine))  # it may run before its client has heard of it
    assert [m.state for m in executor.reap() if m.lane == lane] == []
    assert states(executor) == ["started"]


def test_a_worker_that_never_joins_is_told_from_a_call_that_takes_long(make_executor, never_joins, until, states):
    executor = make_executor(env=never_joins, boot_timeout=1.0, timeout=0.5, max_workers=1)
    error = executor.submit(tasks.increment, 1).exception(WAIT)
    assert isinstance(error, MachineStartError)
    assert (error.phase, "did not join within 1 s (boot_timeout)" in str(error)) == ("join", True)
    until(lambda: states(executor) == ["stopped"])  # it costs nothing


def test_a_machine_that_is_created_while_the_fleet_looks_is_given_up_in_time(
    make_executor, local_fly, monkeypatch, never_joins
):
    assigned = threading.Event()
    look, assign = LaneStore.look, LaneStore.assign

    def look_before_it_is_assigned(self, lane, reservation, held=()):
        seen = look(self, lane, reservation, held)
        if reservation.endswith(".look2"):  # the create is under way
            assert assigned.wait(WAIT)
        return seen

    def assign_and_tell(self, *names):
        try:
            return assign(self, *names)
        finally:
            assigned.set()

    monkeypatch.setattr(LaneStore, "look", look_before_it_is_assigned)
    monkeypatch.setattr(LaneStore, "assign", assign_and_tell)
    executor = make_executor(env=never_joins, boot_timeout=1.0, max_workers=1)
    local_fly.inject(latency=(0.7, 0.7))  # longer than the fleet takes to look again
    try:
        error = executor.submit(tasks.increment, 1).exception(10.0)
    finally:
        local_fly.inject()
    assert isinstance(error, MachineStartError)
    assert error.phase == "join"


@pytest.mark.parametrize("fault", [{"lost_answers": 0.5}, {"too_many": 0.5}, {"broken": 0.4}, {"no_answer": 0.4}])
def test_an_api_that_misbehaves_costs_time_and_no_second_machine(make_executor, local_fly, until, states, fault):
    local_fly.inject(seed=7, **fault)
    try:
        executor = make_executor(max_workers=1, idle_timeout=0.3, boot_timeout=60.0)
        assert executor.submit(tasks.increment, 1).result(WAIT) == 2
    finally:
        local_fly.inject()
    until(lambda: states(executor) == ["suspended"])
