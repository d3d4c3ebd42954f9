"""A Redis that was emptied, or is another, has forgotten who works: no more machines run all the same than may."""

import pytest
import requests

from tests import tasks

WAIT = 60.0
AWAKE = frozenset({"created", "starting", "started", "stopping", "suspending", "restarting", "replacing", "updating"})


@pytest.fixture
def most_awake(local_fly):
    """The most machines of an executor that were awake at a time, by the events of all that ever were."""

    def ask(executor):
        url = f"{local_fly.api_url}/v1/apps/{local_fly.app}/machines?include_deleted=true"
        told = requests.get(url, headers={"Authorization": f"Bearer {local_fly.token}"}, timeout=10).json()
        changes = []
        for machine in told:
            config = machine.get("config") or machine["incomplete_config"]  # its host is lost: of another test
            if config.get("metadata", {}).get("flyexecutor") == executor._lane.name:
                assert machine["events"][-1]["type"] == "launch"  # all of them are kept
                before = False
                for event in reversed(machine["events"]):
                    after = event["status"] in AWAKE
                    changes.append((event["timestamp"], after - before))
                    before = after
        awake = most = 0
        for _, change in sorted(changes):
            awake += change
            most = max(most, awake)
        return most

    return ask


@pytest.fixture
def occupy(submit_gated):
    """Have calls run until they are told to go on. Answers what tells them."""

    def submit(executor, number):
        _, gates = submit_gated(executor, number)
        for gate in gates:
            gate.wait_for_entry()

        def let_go():
            for gate in gates:
                gate.open()

        return let_go

    return submit


@pytest.fixture
def looked(local_fly, until):
    """Wait until fleets have asked Fly so often from now on."""

    def wait(times):
        enough = local_fly.requests() + times
        until(lambda: local_fly.requests() >= enough)

    return wait


@pytest.fixture(autouse=True)
def quick(quick_fleet, monkeypatch):
    monkeypatch.setattr("flyexecutor.fleet.launch.REST_PATIENCE", 1.0)


@pytest.mark.parametrize("warm", [0, 1, 2])
def test_while_as_many_machines_work_as_may_an_emptied_redis_makes_no_more(
    make_executor, local_redis, occupy, looked, most_awake, warm
):
    executor = make_executor(max_workers=2, warm=warm)
    let_go = occupy(executor, 2)
    local_redis.flushall()
    later = [executor.submit(tasks.increment, n) for n in range(6)]
    looked(8)
    let_go()
    assert [future.result(WAIT) for future in later] == [1, 2, 3, 4, 5, 6]
    assert most_awake(executor) == 2


def test_several_clients_of_an_emptied_redis_make_no_more_together(
    make_executor, local_redis, occupy, looked, most_awake
):
    clients = [make_executor(max_workers=2, warm=0) for _ in range(3)]
    let_go = occupy(clients[0], 2)
    local_redis.flushall()
    later = [client.submit(tasks.increment, n) for n, client in enumerate(clients)]
    looked(8)
    let_go()
    assert [future.result(WAIT) for future in later] == [1, 2, 3]
    assert most_awake(clients[0]) == 2


@pytest.mark.usefixtures("slow_creates")
def test_a_redis_that_is_emptied_again_and_again_while_machines_are_made_makes_no_more(
    make_executor, local_redis, looked, most_awake
):
    executor = make_executor(max_workers=3, warm=1, idle_timeout=0.1)
    for n in range(12):
        executor.submit(tasks.increment, n)
        looked(1)
        local_redis.flushall()
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2
    assert most_awake(executor) <= 3


@pytest.fixture
def slow_creates(local_fly):
    """Answers take a moment, in which Redis can be emptied."""
    local_fly.inject(latency=(0.0, 0.3))
    yield
    local_fly.inject()
