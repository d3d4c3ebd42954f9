"""Calls for machines that rest: they are started by the word of their workers, without a look at Fly."""

import os
import random
import time

import pytest
import requests

from flyexecutor.errors import MachinesError
from flyexecutor.fleet.api import MachinesClient
from tests import tasks

WAIT = 30.0


@pytest.fixture
def asked(monkeypatch):
    """What clients here ask the Machines API for: lists, starts and what is refused."""
    words = []

    def watch(verb):
        ask = getattr(MachinesClient, verb)

        def note(self, *told, **more):
            words.append((verb, *told))
            try:
                return ask(self, *told, **more)
            except MachinesError as exc:
                words.append(("refused", exc.status))
                raise

        monkeypatch.setattr(MachinesClient, verb, note)

    for verb in ("list_all", "start", "create"):
        watch(verb)
    return words


@pytest.fixture
def resting(make_executor, until, local_fly):
    """An executor whose machines rest; answers their ids, too."""

    def make(number=1, **options):
        executor = make_executor(idle_timeout=0.2, max_workers=number, warm=number, **options)
        futures = [executor.submit(tasks.rest_and_return, 0.5, n) for n in range(number)]
        assert [future.result(WAIT) for future in futures] == [*range(number)]
        machines = {future.machine_id for future in futures}
        assert len(machines) == number
        until(lambda: {local_fly.states()[machine] for machine in machines} == {"suspended"})
        return executor, machines

    return make


def test_a_machine_that_rests_is_started_without_a_list(resting, asked):
    executor, machines = resting()
    del asked[:]
    assert executor.submit(tasks.machine_id).result(WAIT) in machines
    assert asked == [("start", *machines)]


def test_a_fan_out_starts_all_that_rest(resting, asked):
    executor, machines = resting(3)
    del asked[:]
    futures = [executor.submit(tasks.rest_and_return, 0.5, n) for n in range(3)]
    assert [future.result(WAIT) for future in futures] == [0, 1, 2]
    assert {word[1] for word in asked if word[0] == "start"} == machines


def test_one_that_stops_instead_is_started_as_well(make_executor, until, states, asked):
    executor = make_executor(idle_timeout=0.2, max_workers=1, guest="performance-2x")
    machine = executor.submit(tasks.machine_id).result(WAIT)
    until(lambda: states(executor) == ["stopped"])
    del asked[:]
    assert executor.submit(tasks.machine_id).result(WAIT) == machine
    assert asked == [("start", machine)]


def test_one_that_was_destroyed_by_hand_costs_a_refused_start_and_no_call(
    resting, asked, machine_api, until, local_fly
):
    executor, (machine,) = resting()
    machine_api(machine, "destroy")
    until(lambda: local_fly.states()[machine] == "destroyed")
    del asked[:]
    future = executor.with_options(retries=0).submit(tasks.machine_id)
    assert future.result(WAIT) != machine
    assert asked[0] == ("start", machine)
    assert [word[0] for word in asked].count("refused") == 1


def test_one_that_was_stopped_by_hand_boots_anew(resting, asked, machine_api, until, local_fly):
    executor, (machine,) = resting()
    pid = executor.submit(os.getpid).result(WAIT)
    until(lambda: local_fly.states()[machine] == "suspended")
    machine_api(machine, "stop")
    until(lambda: local_fly.states()[machine] == "stopped")
    del asked[:]
    assert executor.submit(os.getpid).result(WAIT) != pid
    assert asked == [("start", machine)]


def test_one_that_was_started_by_hand_is_at_work_again_soon(resting, machine_api):
    executor, (machine,) = resting()
    machine_api(machine, "start")
    assert executor.submit(tasks.machine_id).result(WAIT) == machine


def test_two_clients_start_a_machine_each(resting, make_executor, asked):
    one, machines = resting(2)
    two = make_executor(idle_timeout=0.2, max_workers=2, warm=2)
    del asked[:]
    futures = [executor.submit(tasks.rest_and_return, 0.5, 1) for executor in (one, two)]
    assert [future.result(WAIT) for future in futures] == [1, 1]
    assert {word[1] for word in asked if word[0] == "start"} == machines
    assert ("refused", 412) not in asked


def test_a_call_in_the_moment_of_a_leave_has_a_machine(make_executor):
    executor = make_executor(idle_timeout=0.1, max_workers=1)
    chance = random.Random(7)
    began = time.monotonic()
    for n in range(40):
        assert executor.submit(tasks.increment, n).result(WAIT) == n + 1
        # No event tells when a worker is about to leave: all moments around it are tried.
        time.sleep(chance.uniform(0.08, 0.2))
    assert time.monotonic() - began < 2 * WAIT


def test_one_that_was_handed_to_a_client_that_died_serves_the_next(resting, monkeypatch, make_executor):
    monkeypatch.setattr("flyexecutor.store.calls.RESERVATION_TTL", 1.0)
    executor, machines = resting()
    monkeypatch.setattr(executor._client.fleets, "start_soon", lambda *_: None)  # it dies in this very moment
    lost = executor.submit(tasks.machine_id)
    executor._client._outbox.flush(WAIT)
    other = make_executor(idle_timeout=0.2, max_workers=1)
    assert other.submit(tasks.machine_id).result(WAIT) in machines
    assert lost.result(WAIT) in machines


def test_nobody_who_writes_to_redis_has_a_machine_of_another_kind_started(resting, local_fly, local_redis, asked):
    executor, machines = resting()
    url = f"{local_fly.api_url}/v1/apps/{local_fly.app}/machines"
    headers = {"Authorization": f"Bearer {local_fly.token}"}
    body = {
        "config": {"image": local_fly.image, "init": {"exec": ["true"]}, "metadata": {"whose": "another's"}},
        "skip_launch": True,
    }
    foreign = requests.post(url, json=body, headers=headers, timeout=10).json()["id"]
    key = f"fly:{{{local_fly.app}}}:resting:{executor._lane.name}"
    ((_, proof),) = [name.split() for name in local_redis.zrange(key, 0, -1)]
    local_redis.delete(key)
    local_redis.zadd(key, {f"{foreign} {proof}": 1.0})
    del asked[:]
    assert executor.submit(tasks.machine_id).result(WAIT) in machines
    assert ("start", foreign) not in asked
    requests.delete(f"{url}/{foreign}?force=true", headers=headers, timeout=10).raise_for_status()
