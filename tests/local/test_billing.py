"""What a LocalFly says of itself: seconds billed, requests, states."""

import os
import sys
import time

import pytest
import requests

from flyexecutor.local import LocalFly
from tests.local.conftest import EXIT_0, Api


@pytest.fixture
def own_fly():
    with LocalFly(rate_limits=False, image=0.1) as fly:
        yield fly


@pytest.fixture
def api(own_fly):
    api = Api(own_fly)
    yield api
    api.session.close()


def grows(fly, machine):
    """Whether a machine is billed now: two looks differ."""
    first = fly.billed()[machine["id"]]
    return fly.billed()[machine["id"]] > first


def test_a_machine_is_billed_while_it_is_started_and_while_it_stops(api, own_fly, tmp_path):
    os.mkfifo(tmp_path / "ready")
    stubborn = f"trap '' INT; echo > {tmp_path}/ready; while :; do sleep 600; done"
    machine = api.make_stock(["sh", "-c", stubborn])
    assert (own_fly.billed()[machine["id"]], grows(own_fly, machine)) == (0.0, False)
    api("POST", f"/{machine['id']}/start")
    (tmp_path / "ready").read_text()
    assert grows(own_fly, machine)
    api("POST", f"/{machine['id']}/stop", timeout="1s")
    assert grows(own_fly, machine)
    assert api.get(machine["id"])["state"] == "stopping"
    api.wait(machine, "stopped")
    assert not grows(own_fly, machine)


@pytest.mark.parametrize(("action", "state"), [("suspend", "suspended"), ("stop", "stopped")])
def test_a_suspended_or_stopped_machine_is_not_billed_until_it_starts_again(api, own_fly, action, state):
    machine = api.create()
    api.wait(machine, "started")
    assert grows(own_fly, machine)
    api("POST", f"/{machine['id']}/{action}")
    api.wait(machine, state)
    assert not grows(own_fly, machine)
    seconds = own_fly.billed()[machine["id"]]
    api("POST", f"/{machine['id']}/start")
    assert own_fly.billed()[machine["id"]] > seconds
    assert grows(own_fly, machine)


def test_what_is_billed_is_the_time_that_has_passed(api, own_fly):
    before = time.monotonic()
    machine = api.create(EXIT_0)
    api.wait(machine, "stopped")
    assert 0 < own_fly.billed()[machine["id"]] <= time.monotonic() - before


def test_destroyed_machines_and_those_of_deleted_apps_stay_on_the_bill(api, own_fly):
    machine = api.create()
    api.wait(machine, "started")
    api("DELETE", f"/{machine['id']}?force=true")
    api.wait(machine, "destroyed")
    assert own_fly.states() == {machine["id"]: "destroyed"}
    assert not grows(own_fly, machine)
    requests.delete(f"{own_fly.api_url}/v1/apps/{own_fly.app}", headers=api.session.headers, timeout=10)
    assert own_fly.billed()[machine["id"]] > 0
    assert own_fly.states() == {machine["id"]: "destroyed"}


def test_requests_are_counted_but_not_those_about_the_count(api, own_fly):
    before = own_fly.requests()
    api("GET")
    own_fly.billed()
    own_fly.states()
    assert own_fly.requests() - before == 1


def test_a_request_through_a_machine_s_own_socket_counts(api, own_fly):
    ask = (
        "import http.client, os, socket\n"
        "connection = http.client.HTTPConnection('machine')\n"
        "connection.sock = socket.socket(socket.AF_UNIX)\n"
        "connection.sock.connect(os.environ['FLY_API_SOCKET'])\n"
        "connection.request('GET', '/')\n"
        "connection.getresponse()\n"
    )
    machine = api.make_stock([sys.executable, "-c", ask])
    before = own_fly.requests()
    api("POST", f"/{machine['id']}/start")
    while own_fly.states()[machine["id"]] != "stopped":
        pass
    assert own_fly.requests() - before == 2


def test_without_the_token_nothing_is_told_or_changed(own_fly):
    assert requests.get(f"{own_fly.api_url}/local/billed", timeout=10).status_code == 401


def test_what_is_told_is_neither_limited_nor_a_part_of_the_api_s_limits():
    with LocalFly() as fly:
        assert [fly.requests() for _ in range(20)] == [0] * 20
