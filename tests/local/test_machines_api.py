"""The local Machines API does what Fly documents."""

import threading
import uuid

import pytest
import requests

from tests.local.conftest import EXIT_0, EXIT_3, SLEEP, Api


def test_a_machine_is_created_and_boots_by_itself(api):
    machine = api.create()
    assert machine["state"] == "created"
    assert api.wait(machine, "started").json() == {"ok": True}
    assert api.get(machine["id"])["state"] == "started"


def test_skip_launch_makes_stock_that_start_boots(api):
    machine = api.make_stock()
    assert api("POST", f"/{machine['id']}/start").json()["previous_state"] == "stopped"
    assert api.wait(machine, "started").ok


def test_machines_are_listed_by_metadata(api):
    mark = uuid.uuid4().hex
    machine = api.create(metadata={"mark": mark})
    assert [one["id"] for one in api("GET", f"?metadata.mark={mark}").json()] == [machine["id"]]
    assert api("GET", "?metadata.mark=other").json() == []


def test_metadata_can_be_changed_without_a_new_version(api):
    machine = api.create()
    path = f"/{machine['id']}/metadata"
    assert api("POST", f"{path}/colour", value="red").status_code == 204
    assert api("GET", path).json() == {"colour": "red"}
    assert api("DELETE", f"{path}/colour").status_code == 204
    assert api("GET", path).json() == {}
    assert api.get(machine["id"])["instance_id"] == machine["instance_id"]


def test_a_name_is_unique_until_its_machine_is_destroyed(api):
    machine = api.create()
    again = api("POST", name=machine["name"], config={"image": api.fly.image})
    assert again.status_code == 409
    assert f"machine ID {machine['id']} already exists" in again.json()["error"]
    api("DELETE", f"/{machine['id']}?force=true")
    assert api.wait(machine, "destroyed").ok
    api.create(name=machine["name"])


@pytest.mark.parametrize(
    ("config", "status", "text"),
    [
        ({}, 400, "image is required"),
        ({"image": "no/such:image"}, 422, "no/such:image: unknown image"),
        ({"image": "", "guest": {}}, 400, "image is required"),
        ({"image": "x", "guest": {"memory_mb": 300}}, 422, "300"),
        ({"image": "x", "guest": {"memory_mb": 256}, "size": "shared-cpu-1x"}, 400, "mutually exclusive"),
        ({"image": "x", "size": "huge"}, 422, "'huge'"),
        ({"image": "x", "restart": {"policy": "sometimes"}}, 400, "'sometimes'"),
        ({"image": "x", "env": {"A": 1}}, 400, "env.A"),
    ],
)
def test_a_bad_configuration_is_refused_with_its_value(api, config, status, text):
    answer = api("POST", name=uuid.uuid4().hex, config=config)
    assert (answer.status_code, text in answer.json()["error"]) == (status, True), answer.text


def test_stop_sends_its_signal_and_then_kills(api):
    stubborn = api.create(["sh", "-c", "trap '' INT; echo; while :; do sleep 600; done"])
    api.wait(stubborn, "started")
    assert api("POST", f"/{stubborn['id']}/stop", timeout="0.2s").json() == {"ok": True}
    assert api.wait(stubborn, "stopped").ok
    exit_event = api.get(stubborn["id"])["events"][0]["request"]["exit_event"]
    assert exit_event["requested_stop"] is True
    assert exit_event["guest_signal"] in {2, 9}


def test_a_stopped_machine_starts_again_and_a_started_one_stays(api):
    machine = api.create()
    api.wait(machine, "started")
    assert api("POST", f"/{machine['id']}/start").json()["previous_state"] == "started"
    api("POST", f"/{machine['id']}/stop")
    api.wait(machine, "stopped")
    assert api("POST", f"/{machine['id']}/start").json()["previous_state"] == "stopped"
    assert api.wait(machine, "started").ok


def test_start_is_refused_while_the_machine_stops(api):
    stubborn = api.create(["python", "-c", "import signal; signal.signal(2, signal.SIG_IGN); signal.pause()"])
    api.wait(stubborn, "started")
    api("POST", f"/{stubborn['id']}/stop", timeout="2s")
    refused = api("POST", f"/{stubborn['id']}/start")
    assert refused.status_code in {412, 200}  # 200: the signal came before the program ignored it
    if refused.status_code == 412:
        assert "'stopping'" in refused.json()["error"]


def test_a_signal_reaches_the_program(api):
    machine = api.create()
    api.wait(machine, "started")
    assert api("POST", f"/{machine['id']}/signal", signal="SIGKILL").ok
    assert api.wait(machine, "stopped").ok
    assert api.get(machine["id"])["events"][0]["request"]["exit_event"]["exit_code"] == 137
    assert api("POST", f"/{machine['id']}/signal", signal="SIGNONSENSE").status_code == 400


def test_restart_and_update_start_a_new_process_and_update_a_new_instance(api):
    machine = api.create()
    api.wait(machine, "started")
    assert api("POST", f"/{machine['id']}/restart?timeout=1s").ok
    assert api.get(machine["id"])["instance_id"] == machine["instance_id"]
    config = {"image": api.fly.image, "init": {"exec": SLEEP}, "metadata": {"v": "2"}}
    stale = api("POST", f"/{machine['id']}", config=config, current_version="01OLD")
    assert stale.status_code == 412
    updated = api("POST", f"/{machine['id']}", config=config, current_version=machine["instance_id"]).json()
    assert updated["instance_id"] != machine["instance_id"]
    assert updated["config"]["metadata"] == {"v": "2"}
    assert api.wait(updated, "started").ok


def test_wait_refuses_what_fly_refuses_and_tells_what_it_did_not_reach(api):
    machine = api.create()
    wait = f"/{machine['id']}/wait"
    assert "instance_id required" in api("GET", f"{wait}?state=stopped").json()["error"]
    for timeout in (0, 61):
        assert api("GET", f"{wait}?state=started&timeout={timeout}").status_code == 400
    late = api("GET", f"{wait}?state=destroyed&timeout=1")
    assert (late.status_code, late.json()["error"]) == (
        408,
        "machine failed to reach desired state, destroyed, currently started",
    )


def test_a_running_machine_is_deleted_by_force_only(api):
    machine = api.create()
    api.wait(machine, "started")
    assert api("DELETE", f"/{machine['id']}").status_code == 412
    assert api("DELETE", f"/{machine['id']}?force=true").json() == {"ok": True}
    assert api.wait(machine, "destroyed").ok
    assert machine["id"] not in [one["id"] for one in api("GET").json()]
    assert machine["id"] in [one["id"] for one in api("GET", "?include_deleted=true").json()]


def test_auto_destroy_follows_an_exit(api):
    machine = api.create(EXIT_0, auto_destroy=True)
    assert api.wait(machine, "destroyed").ok


@pytest.mark.parametrize(
    ("restart", "command", "exits"),
    [
        ({"policy": "no"}, EXIT_3, 1),
        ({"policy": "on-failure", "max_retries": 2}, EXIT_3, 3),
        ({"policy": "on-failure", "max_retries": 2}, EXIT_0, 1),
        ({}, EXIT_3, 11),
    ],
)
def test_the_restart_policy_decides_what_an_exit_means(api, restart, command, exits):
    machine = api.create(command, restart=restart)
    assert api.wait(machine, "stopped").ok
    events = [event for event in api("GET", f"/{machine['id']}/events").json() if event["type"] == "exit"]
    assert len(events) == exits
    newest = events[0]["request"]
    assert newest["exit_event"]["restarting"] is False
    assert newest["restart_count"] == exits - 1
    assert newest["exit_event"]["exit_code"] == (3 if command is EXIT_3 else 0)
    assert [event["timestamp"] for event in events] == sorted((e["timestamp"] for e in events), reverse=True)


def test_the_policy_always_restarts_after_success_too_until_it_is_stopped(api):
    machine = api.create(EXIT_0, restart={"policy": "always"})
    while len([e for e in api("GET", f"/{machine['id']}/events").json() if e["type"] == "exit"]) < 3:
        pass
    api("DELETE", f"/{machine['id']}?force=true")
    assert api.wait(machine, "destroyed").ok


def test_a_program_that_is_not_there_fails_the_machine(api):
    machine = api.create(["/no/such/program"])
    while (state := api.get(machine["id"])["state"]) in {"created", "starting"}:
        pass
    assert state == "failed"


def test_a_lease_keeps_others_from_changing_the_machine(api):
    machine = api.create()
    api.wait(machine, "started")
    path = f"/{machine['id']}/lease"
    taken = api("POST", path, ttl=60, description="mine")
    assert (taken.status_code, taken.json()["status"]) == (201, "success")
    nonce = {"fly-machine-lease-nonce": taken.json()["data"]["nonce"]}
    assert api("POST", path, ttl=60).status_code == 409
    assert api("POST", f"/{machine['id']}/stop").status_code == 409
    refreshed = api("POST", path, headers=nonce, ttl=120)
    assert refreshed.json()["data"]["nonce"] == nonce["fly-machine-lease-nonce"]
    assert api("GET", path).json()["data"]["description"] == ""
    assert api("DELETE", path).status_code == 409
    assert api("DELETE", path, headers=nonce).ok
    assert api("GET", path).status_code == 404
    assert api("POST", f"/{machine['id']}/stop").ok


@pytest.mark.parametrize("headers", [{"Authorization": ""}, {"Authorization": "Bearer wrong"}])
def test_a_request_without_the_token_is_refused(api, headers):
    answer = api("GET", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["fly-request-id"]


def test_what_is_not_there_is_404_and_every_answer_names_its_request(api):
    for answer in (api("GET", app="no-such"), api("GET", "/no-such"), api("PATCH", "/x/y/z")):
        assert answer.status_code == 404
        assert answer.json()["error"]
        assert answer.headers["fly-request-id"]


def test_apps_can_be_made_and_deleted(api):
    name = f"app-{uuid.uuid4().hex}"
    url = f"{api.fly.api_url}/v1/apps"
    assert api.session.post(url, json={"app_name": name, "org_slug": "personal"}, timeout=10).status_code == 201
    assert api.session.post(url, json={"app_name": name, "org_slug": "personal"}, timeout=10).status_code == 422
    assert api.session.get(f"{url}/{name}", timeout=10).json()["name"] == name
    assert api.session.delete(f"{url}/{name}", timeout=10).status_code == 202
    assert api.session.get(f"{url}/{name}", timeout=10).status_code == 404


def test_a_body_that_is_no_object_is_refused(api):
    machine = api.create()
    url = f"{api.fly.api_url}/v1/apps/{api.fly.app}/machines/{machine['id']}/stop"
    assert api.session.post(url, data="[]", timeout=10).status_code == 400


def test_rate_limits_are_those_that_fly_documents(tmp_path):
    from flyexecutor import LocalFly  # noqa: PLC0415 - another one than the session's

    with LocalFly() as fly:
        api = Api(fly)
        made = [api.create(skip_launch=True) for _ in range(3)]
        refused = api("POST", name="x", config={"image": fly.image})
        assert refused.status_code == 429
        assert refused.json()["error"] == "resource_exhausted: rate limit exceeded"
        while {*fly.states().values()} != {"stopped"}:
            pass
        for machine in made:  # limited for each machine, not for the app
            assert api("POST", f"/{machine['id']}/start").ok
        statuses = [api("GET", f"/{made[0]['id']}").status_code for _ in range(20)]
        assert statuses[:10] == [200] * 10
        assert 429 in statuses
        api.session.close()


def test_the_organisation_s_machine_limit_is_a_refusal_of_create():
    from flyexecutor import LocalFly  # noqa: PLC0415

    with LocalFly(machine_limit=1, rate_limits=False) as fly:
        api = Api(fly)
        api.create(skip_launch=True)
        refused = api("POST", name="x", config={"image": fly.image})
        assert refused.status_code == 403
        assert "machine limit of 1" in refused.json()["error"]
        api.session.close()


def test_many_can_wait_at_once(api):
    machine = api.create()
    assert api.wait(machine, "started").ok
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(_wait(api.fly, machine))) for _ in range(8)]
    for thread in threads:
        thread.start()
    api("POST", f"/{machine['id']}/stop")
    for thread in threads:
        thread.join(20)
    assert answers == [200] * 8


def _wait(fly, machine):
    url = f"{fly.api_url}/v1/apps/{fly.app}/machines/{machine['id']}/wait"
    params = {"state": "stopped", "instance_id": machine["instance_id"], "timeout": "20"}
    return requests.get(url, params=params, headers={"Authorization": f"Bearer {fly.token}"}, timeout=30).status_code
