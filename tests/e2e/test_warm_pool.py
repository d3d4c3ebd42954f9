"""Idle workers suspend themselves and come back with their memory; a few are kept, the others destroy themselves."""

import contextlib
import os

import pytest
import redis
import requests

from flyexecutor import SettingsError
from flyexecutor.fleet.api import MachinesClient
from tests import tasks

WAIT = 30.0


@pytest.fixture
def machine_config(local_fly):
    """What Fly knows of a machine's configuration."""

    def ask(machine_id):
        url = f"{local_fly.api_url}/v1/apps/{local_fly.app}/machines/{machine_id}"
        return requests.get(url, headers={"Authorization": f"Bearer {local_fly.token}"}, timeout=10).json()["config"]

    return ask


def test_an_idle_machine_suspends_itself_and_comes_back_with_its_memory(make_executor, until, states):
    executor = make_executor(idle_timeout=0.2, max_workers=1)
    first = executor.submit(os.getpid)
    pid, machine = first.result(WAIT), first.machine_id
    until(lambda: states(executor) == ["suspended"])
    again = executor.submit(os.getpid)
    assert (again.result(WAIT), again.machine_id) == (pid, machine)  # the same process: imports are there


def test_nothing_is_imported_anew_after_a_suspension(make_executor, until, states):
    executor = make_executor(idle_timeout=0.2, max_workers=1, initializer=tasks.initialize, initargs=("kept",))
    assert executor.submit(tasks.what_was_initialized).result(WAIT)[-1] == "kept"
    until(lambda: states(executor) == ["suspended"])
    assert executor.submit(tasks.what_was_initialized).result(WAIT).count("kept") == 1


def test_as_many_as_warm_are_kept_and_the_others_destroy_themselves(make_executor, hold, until, states):
    executor = make_executor(idle_timeout=0.2, max_workers=4, warm=2)
    _, let_go = hold(executor, 4)
    until(lambda: executor.stats().running == 4)
    assert len(set(let_go())) == 4
    until(lambda: states(executor) == ["suspended", "suspended"])


def test_a_larger_machine_stops_instead(make_executor, until, states):
    executor = make_executor(idle_timeout=0.2, max_workers=1, guest="performance-2x")
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2
    until(lambda: states(executor) == ["stopped"])
    assert executor.submit(tasks.increment, 2).result(WAIT) == 3


def test_a_machine_of_4_gb_tries_to_be_suspended_where_that_is_asked_for(make_executor, until, states, machine_config):
    usual = make_executor(idle_timeout=0.2, max_workers=1, guest="performance-2x")
    asked = make_executor(idle_timeout=0.2, max_workers=1, guest="performance-2x", suspend_mb=4096)
    for executor, wish, rest in ((usual, "stop", ["stopped"]), (asked, "suspend", ["stopped", "suspended"])):
        machine = executor.submit(tasks.machine_id).result(WAIT)
        assert machine_config(machine)["env"]["FLYEXECUTOR_IDLE"] == wish
        until(lambda rests=executor, rest=rest: states(rests)[0] in rest)
        assert executor.submit(tasks.machine_id).result(WAIT) == machine


def test_a_machine_of_4_gb_stops_if_fly_refuses_to_suspend_it(make_executor, until, states, suspends):
    suspends(2048)
    executor = make_executor(idle_timeout=0.2, max_workers=1, guest="performance-2x", suspend_mb=4096)
    machine = executor.submit(tasks.machine_id).result(WAIT)
    until(lambda: states(executor) == ["stopped"])
    assert executor.submit(tasks.machine_id).result(WAIT) == machine


@pytest.mark.parametrize("wrong", [4097, -1, 2048.5, True, "2 GB"])
def test_more_than_fly_suspends_at_all_is_refused(make_executor, wrong):
    with pytest.raises(SettingsError, match=f"suspend_mb is {wrong!r}: .*up to 4096"):
        make_executor(suspend_mb=wrong)


@pytest.fixture
def suspends(local_fly):
    """Sets how large a machine may be, in MB, that Fly suspends."""
    yield lambda suspend_mb: local_fly.inject(suspend_mb=suspend_mb)
    local_fly.inject()


def test_a_machine_that_may_not_suspend_itself_stops(make_executor, until, states, suspends):
    suspends(128)
    executor = make_executor(idle_timeout=0.2, max_workers=1)
    machine = executor.submit(tasks.machine_id).result(WAIT)
    until(lambda: states(executor) == ["stopped"])
    assert executor.submit(tasks.machine_id).result(WAIT) == machine


def test_a_trickle_keeps_one_machine_awake_and_not_all(make_executor, hold, until):
    executor = make_executor(idle_timeout=1.0, max_workers=3, warm=3)
    _, let_go = hold(executor, 3)
    until(lambda: executor.stats().running == 3)
    let_go()

    def one_is_awake():
        assert executor.submit(tasks.increment, 1).result(WAIT) == 2
        return executor.stats().workers == 1

    until(one_is_awake)  # calls come all the time: no machine is idle for long
    machines = {executor.submit(tasks.machine_id).result(WAIT) for _ in range(20)}
    assert len(machines) == 1


def test_prepared_machines_rest_at_once_and_run_without_a_create(make_executor, local_fly, states):
    executor = make_executor(idle_timeout=30.0, max_workers=3, warm=1, warmup=tasks.leave_a_mark)
    executor.prepare(3, timeout=WAIT)
    assert states(executor) == ["suspended"] * 3
    before = {machine.id for machine in executor.machines()}
    executor.prepare(2, timeout=WAIT)
    assert {machine.id for machine in executor.machines()} == before
    future = executor.submit(tasks.what_was_initialized)
    assert future.result(WAIT) == ["warm"]
    assert future.machine_id in before


def test_a_warm_up_that_raises_is_told_in_the_log_and_costs_nothing(make_executor, until, states):
    executor = make_executor(idle_timeout=0.2, max_workers=1, warmup=tasks.fail_to_initialize)
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2
    until(lambda: states(executor) == ["suspended"])
    assert executor.submit(tasks.increment, 2).result(WAIT) == 3


def test_connections_that_died_meanwhile_are_made_anew(make_executor, local_fly, until, states):
    executor = make_executor(idle_timeout=0.2, max_workers=1)
    executor.submit(tasks.increment, 1).result(WAIT)
    until(lambda: states(executor) == ["suspended"])
    with redis.Redis.from_url(local_fly.redis_url) as admin:
        admin.client_kill_filter(_type="normal", skipme=True)
    assert executor.submit(tasks.increment, 2).result(WAIT) == 3


def test_a_clock_that_lags_harms_nothing(make_executor, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import time\nreal = time.time\ntime.time = lambda: real() - 7200\n")
    path = f"{tmp_path}:{os.getcwd()}"
    executor = make_executor(env={"PYTHONPATH": path}, max_workers=1, idle_timeout=0.2)
    lagging = executor.with_options(expires=20.0, timeout=20.0)
    ours, theirs = tasks.clock(), lagging.submit(tasks.clock).result(WAIT)
    assert ours - theirs > 7000
    future = lagging.submit(tasks.increment, 1)
    assert future.result(WAIT) == 2
    assert abs(future.info().times.finished - ours) < 60


@pytest.mark.parametrize("ends", ["stop", "destroy"])
def test_a_suspended_machine_that_is_ended_by_hand_is_not_missed(make_executor, machine_api, until, states, ends):
    executor = make_executor(idle_timeout=0.2, max_workers=1)
    machine = executor.submit(tasks.machine_id).result(WAIT)
    until(lambda: states(executor) == ["suspended"])
    machine_api(machine, ends)
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2


def test_a_machine_ends_at_its_max_lifetime_although_it_has_work(make_executor, local_fly, until):
    executor = make_executor(idle_timeout=30.0, max_workers=1, max_lifetime=1.0)
    executor.submit(tasks.increment, 1)
    (machine,) = until(lambda: [m.id for m in executor.machines() if m.lane == executor._lane.name])
    with contextlib.closing(MachinesClient(local_fly.api_url, local_fly.app, local_fly.token)) as api:

        def its_end():
            executor.submit(tasks.increment, 1)  # it is never idle for long
            return api.get(machine).exit

        assert until(its_end).exit_code == 0


def test_a_call_that_outlives_its_machine_is_lost_with_the_reason(make_executor, tmp_path):
    gate = tasks.Gate.make(tmp_path)
    executor = make_executor(max_workers=1, max_lifetime=2.0, retries=0)
    future = executor.submit(gate.enter)
    gate.wait_for_entry()
    assert "max_lifetime (2 s)" in str(future.exception(WAIT))


def test_limits_change_at_run_time(make_executor, hold, until):
    executor = make_executor(max_workers=1)
    _, let_go = hold(executor, 3)
    until(lambda: executor.stats().running == 1)
    executor.with_options(timeout=60.0).set_limits(max_workers=3)
    until(lambda: executor.stats().running == 3)
    let_go()


def test_calls_wait_rather_than_cost_more_than_max_cost_per_hour(make_executor, hold, until):
    hour = 1.94 / 30 / 24  # of a shared-cpu-1x
    executor = make_executor(max_workers=5, max_cost_per_hour=2.5 * hour)
    _, let_go = hold(executor, 4)
    until(lambda: executor.stats().running == 2)
    assert (executor.stats().queued, executor.stats().workers) == (2, 2)
    machines = let_go()
    assert {m.id for m in executor.machines() if m.lane == executor._lane.name} == set(machines)
    assert len(set(machines)) == 2


def test_other_machines_for_one_call(make_executor):
    executor = make_executor(max_workers=1)
    larger = executor.with_options(guest="shared-cpu-2x", env={"WORD": "told"})
    assert larger.submit(tasks.environment, "FLY_VM_MEMORY_MB").result(WAIT) == "512"
    assert larger.submit(tasks.environment, "WORD").result(WAIT) == "told"
    assert executor.submit(tasks.environment, "WORD").result(WAIT) is None
