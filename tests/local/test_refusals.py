"""What can't be is refused as Fly refuses it: with its status, and a text that begins with its code."""

import os
import threading
import uuid

import pytest

from flyexecutor.local import LocalFly
from tests.local.conftest import SLEEP, Api

STILL_ACTIVE = "failed_precondition: machine still active, refusing to start"


def refusal(answer):
    return answer.status_code, answer.json()["error"]


@pytest.fixture
def stubborn(api, tmp_path):
    """A machine that has started and does not end when it is asked to."""
    os.mkfifo(tmp_path / "ready")
    machine = api.create(["sh", "-c", f"trap '' INT; echo > {tmp_path}/ready; while :; do sleep 600; done"])
    (tmp_path / "ready").read_text()
    yield machine
    api("DELETE", f"/{machine['id']}?force=true")


def test_a_machine_that_stops_can_t_be_started_stopped_twice_or_changed(api, stubborn):
    path = f"/{stubborn['id']}"
    assert api("POST", f"{path}/stop", timeout="10m").ok
    assert api("POST", f"{path}/stop").ok  # it does that already
    text = "failed_precondition: unable to {} machine from current state: 'stopping'"
    assert refusal(api("POST", f"{path}/start")) == (412, text.format("start"))
    assert refusal(api("POST", f"{path}/suspend")) == (412, text.format("suspend"))
    assert refusal(api("POST", f"{path}/signal", signal="SIGUSR1")) == (412, text.format("signal"))
    assert refusal(api("POST", path, config={"image": api.fly.image})) == (412, text.format("update"))
    assert refusal(api("DELETE", path)) == (
        412,
        "failed_precondition: unable to destroy machine, not currently stopped, suspended, failed or created",
    )


def test_a_machine_that_has_just_stopped_may_still_be_active(api):
    machine, stock = api.create(), api.make_stock()
    api.wait(machine, "started")
    api("POST", f"/{machine['id']}/stop")
    assert api.wait(machine, "stopped").ok
    api.fly.inject(still_active=600.0)
    assert refusal(api("POST", f"/{machine['id']}/start")) == (412, STILL_ACTIVE)
    assert api.get(machine["id"])["state"] == "stopped"
    assert api("POST", f"/{stock['id']}/start").ok  # it has not been active
    api.fly.inject(still_active=0.1)
    while not (started := api("POST", f"/{machine['id']}/start")).ok:
        assert refusal(started) == (412, STILL_ACTIVE)
    assert api.wait(machine, "started").ok
    api.fly.inject(still_active=600.0)
    assert api("POST", f"/{machine['id']}/restart?timeout=1s").ok  # Fly's own affair
    api.fly.inject()


def test_a_machine_that_starts_can_t_be_started_again_and_one_that_has_started_need_not(api):
    api.fly.inject(stuck=["starting"])
    machine = api.create()
    while api.get(machine["id"])["state"] != "starting":
        pass
    api.fly.inject()
    again = api("POST", f"/{machine['id']}/start")
    assert refusal(again) == (409, "aborted: machine still attempting to start")
    assert api("DELETE", f"/{machine['id']}?force=true").ok
    started = api.create()
    assert api.wait(started, "started").ok
    assert api("POST", f"/{started['id']}/start").json()["previous_state"] == "started"
    assert [e["status"] for e in api.get(started["id"])["events"]].count("started") == 1


def test_a_machine_that_is_destroyed_is_refused_everything_but_its_end(api):
    machine = api.make_stock()
    path = f"/{machine['id']}"
    assert api("DELETE", path).ok
    assert api.wait(machine, "destroyed").ok
    for action in ("start", "stop", "suspend"):
        text = f"failed_precondition: unable to {action} machine from current state: 'destroyed'"
        assert refusal(api("POST", f"{path}/{action}")) == (412, text)
    assert api("DELETE", path).ok


def test_a_taken_name_is_told_with_the_machine_that_has_it(api):
    machine = api.create()
    again = api("POST", name=machine["name"], config={"image": api.fly.image})
    assert refusal(again) == (
        409,
        f"already_exists: unique machine name violation, machine ID {machine['id']} already exists with name "
        f'"{machine["name"]}"',
    )


def test_an_update_of_a_version_that_is_not_the_current_one_changes_nothing(api):
    machine = api.make_stock(metadata={"v": "1"})
    status, text = refusal(api("POST", f"/{machine['id']}", config={"image": api.fly.image}, current_version="01OLD"))
    assert status == 409
    assert text.startswith("aborted: ")
    assert "01OLD" in text
    assert machine["instance_id"] in text
    assert api.get(machine["id"])["config"]["metadata"] == {"v": "1"}


def test_of_two_updates_of_one_version_at_once_only_one_is_carried_out(api, stubborn):
    config = {"image": api.fly.image, "init": {"exec": SLEEP}}
    statuses = []

    def update():
        other = Api(api.fly)
        body = {"config": config, "current_version": stubborn["instance_id"]}
        statuses.append(other("POST", f"/{stubborn['id']}", **body).status_code)
        other.session.close()

    threads = [threading.Thread(target=update) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert statuses.count(200) == 1
    assert {*statuses} <= {200, 409, 412}


def test_while_it_is_updated_a_machine_can_t_be_started_and_an_update_ends_with_it(api, stubborn):
    answers = []

    def update():
        other = Api(api.fly)
        answers.append(refusal(other("POST", f"/{stubborn['id']}", config={"image": api.fly.image})))
        other.session.close()

    thread = threading.Thread(target=update)
    thread.start()
    while api.get(stubborn["id"])["state"] != "replacing":
        pass
    replaced = "failed_precondition: machine getting replaced, refusing to start"
    assert refusal(api("POST", f"/{stubborn['id']}/start")) == (412, replaced)
    assert api("DELETE", f"/{stubborn['id']}?force=true").ok
    thread.join(30)
    ((status, text),) = answers
    assert (status, text.startswith("failed_precondition: ")) == (412, True)
    assert api.get(stubborn["id"])["state"] == "destroyed"


def test_the_machine_limit_of_an_organisation_is_422():
    with LocalFly(machine_limit=1, rate_limits=False) as fly:
        api = Api(fly)
        api.create(skip_launch=True)
        refused = api("POST", name=uuid.uuid4().hex, config={"image": fly.image})
        assert (refused.status_code, "machine limit of 1" in refused.json()["error"]) == (422, True)
        api.session.close()


@pytest.mark.parametrize("guest", [{"gpu_kind": "l40s"}, {"gpus": 1}, {"gpu_kind": "a10", "gpus": 1, "cpus": 8}])
def test_gpus_are_no_more(api, guest):
    status, text = refusal(api("POST", config={"image": api.fly.image, "guest": guest}))
    assert status == 400
    assert text.startswith("invalid_argument: ")
    assert "GPU" in text
    machine = api.make_stock()
    assert api("POST", f"/{machine['id']}", config={"image": api.fly.image, "guest": guest}).status_code == 400


def test_a_start_without_room_says_so_with_its_code():
    with LocalFly(rate_limits=False, image=0.1) as fly:
        api = Api(fly)
        machine = api.make_stock()
        fly.inject(no_capacity=["iad"])
        status, text = refusal(api("POST", f"/{machine['id']}/start"))
        assert (status, text.startswith("aborted: could not reserve resource for machine: ")) == (409, True)
        config = {"image": fly.image}
        refused = [refusal(api("POST", config=config)) for _ in range(3)]
        assert [status for status, _ in refused] == [412, 409, 422]
        assert refused[0][1].startswith("failed_precondition: insufficient resources")
        assert refused[1][1].startswith("aborted: could not reserve resource")
        api.session.close()
