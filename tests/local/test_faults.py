"""A LocalFly goes wrong as it is told to, in the same way each time, and well again."""

import os
import time
import uuid

import psutil
import pytest
import requests

from flyexecutor.local import LocalFly
from tests.local.conftest import SLEEP, Api


@pytest.fixture(scope="module")
def module_fly():
    with LocalFly(rate_limits=False, image=0.1) as fly:
        yield fly


@pytest.fixture
def fly(module_fly):
    yield module_fly
    module_fly.inject()


@pytest.fixture
def api(fly):
    api = Api(fly)
    yield api
    api.session.close()


def create(api, **body):
    config = {"image": api.fly.image, "init": {"exec": SLEEP}}
    return api("POST", name=uuid.uuid4().hex, config=config, **body)


def statuses(api, count=30):
    def one():
        try:
            return api("GET").status_code
        except requests.ConnectionError:
            return None

    return [one() for _ in range(count)]


@pytest.mark.parametrize(
    ("faults", "seen"),
    [({"too_many": 1.0}, {429}), ({"broken": 1.0}, {500, 502, 503}), ({"no_answer": 1.0}, {None}), ({}, {200})],
)
def test_each_fault_looks_as_it_does_on_fly(api, fly, faults, seen):
    fly.inject(seed=3, **faults)
    assert set(statuses(api)) == seen


def test_the_same_seed_goes_wrong_in_the_same_way(api, fly):
    chances = {"too_many": 0.2, "broken": 0.2, "no_answer": 0.2}
    fly.inject(seed=7, **chances)
    first = statuses(api)
    fly.inject(seed=7, **chances)
    assert statuses(api) == first
    fly.inject(seed=8, **chances)
    assert statuses(api) != first
    assert len(set(first)) > 3


def test_inject_without_arguments_ends_all_faults(api, fly):
    fly.inject(too_many=1.0, no_capacity=["iad"])
    fly.inject()
    assert create(api).ok


def test_a_502_is_no_json(api, fly):
    fly.inject(broken=1.0, seed=1)
    answers = [api("GET") for _ in range(20)]
    assert {answer.status_code for answer in answers if not answer.text.startswith("{")} == {502}


def test_a_refusal_for_too_many_requests_has_fly_s_words(api, fly):
    fly.inject(too_many=1.0)
    assert api("GET").json()["error"] == "resource_exhausted: rate limit exceeded"


@pytest.mark.parametrize(("faults", "carried_out"), [({"lost_answers": 1.0}, True), ({"no_answer": 1.0}, False)])
def test_a_lost_answer_is_carried_out_and_a_lost_request_is_not(api, fly, faults, carried_out):
    before = fly.states()
    fly.inject(**faults)
    with pytest.raises(requests.ConnectionError):
        create(api)
    assert (len(fly.states()) - len(before)) == int(carried_out)


def test_latency_delays_each_request_by_its_seconds(api, fly):
    fly.inject(latency=(0.2, 0.3))
    before = time.monotonic()
    assert api("GET").ok
    assert time.monotonic() - before >= 0.2


def test_a_region_without_capacity_refuses_machines_in_fly_s_three_ways(api, fly):
    fly.inject(no_capacity=["iad"])
    refused = [create(api, region="iad") for _ in range(3)]
    assert [one.status_code for one in refused] == [412, 409, 422]
    assert "insufficient resources" in refused[0].json()["error"]
    assert "insufficient memory available to fulfill request" in refused[1].json()["error"]
    assert refused[2].json()["status"] == "insufficient_capacity"
    assert create(api, region="dfw").json()["region"] == "dfw"


def test_regions_are_tried_in_their_order(api, fly):
    fly.inject(no_capacity=["iad", "ord"])
    assert create(api, region="iad,ord,dfw,ams").json()["region"] == "dfw"
    assert create(api, region="iad,ord").status_code == 412


def test_without_capacity_a_stopped_machine_can_t_start_but_a_suspended_one_has_its_room(api, fly):
    stopped, suspended = api.create(), api.create()
    assert all(api.wait(machine, "started").ok for machine in (stopped, suspended))
    api("POST", f"/{stopped['id']}/stop")
    api("POST", f"/{suspended['id']}/suspend")
    assert api.wait(stopped, "stopped").ok
    fly.inject(no_capacity=["iad"])
    refused = api("POST", f"/{stopped['id']}/start")
    assert (refused.status_code, "could not reserve resource" in refused.json()["error"]) == (409, True)
    assert api.get(stopped["id"])["state"] == "stopped"
    assert api("POST", f"/{suspended['id']}/start").ok
    assert api("POST", f"/{suspended['id']}/restart?timeout=1s").ok


def test_a_stuck_machine_stays_in_its_passing_state_until_force_ends_it(api, fly):
    running = api.create()
    api.wait(running, "started")
    fly.inject(stuck=["starting", "stopping"])
    stuck = api.create()
    while (state := api.get(stuck["id"])["state"]) == "created":
        pass
    assert state == "starting"
    assert api("POST", f"/{running['id']}/stop", timeout="0s").ok
    assert api.wait(running, "stopped", timeout=1).status_code == 408
    for machine in (stuck, running):
        assert api("DELETE", f"/{machine['id']}").status_code == 412
        assert api("DELETE", f"/{machine['id']}?force=true").ok
        assert api.wait(machine, "destroyed").ok


def test_a_machine_is_stuck_in_passing_states_only(fly):
    with pytest.raises(ValueError, match="started"):
        fly.inject(stuck=["started"])


def test_a_machine_whose_host_is_lost_runs_no_more_and_keeps_its_state(api, fly, tmp_path):
    os.mkfifo(tmp_path / "pid")
    machine = api.create(["sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 600; true"], metadata={"a": "b"})
    process = psutil.Process(int((tmp_path / "pid").read_text()))
    fly.lose_host(machine["id"])
    assert psutil.wait_procs([process], timeout=10)[1] == []
    seen = api.get(machine["id"])
    assert (seen["state"], seen["host_status"]) == ("started", "unreachable")
    assert "config" not in seen
    assert seen["incomplete_config"]["metadata"] == {"a": "b"}
    answers = [api("POST", f"/{machine['id']}/{action}") for action in ("start", "stop", "suspend", "lease")]
    answers.append(api("DELETE", f"/{machine['id']}?force=true"))
    assert [one.status_code for one in answers] == [412, 503, 503, 503, 503]
    assert fly.states()[machine["id"]] == "started"


def test_only_a_machine_that_exists_can_lose_its_host(fly):
    with pytest.raises(ValueError, match="nonsense"):
        fly.lose_host("nonsense")
