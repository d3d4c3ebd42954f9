"""The local Machines API does what Fly documents."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.local.conftest import EXIT_0, EXIT_3, SLEEP, Api


def test_a_machine_is_created_and_boots_by_itself(api):
    machine = api.create()
    assert machine["state"] == "created"
    assert api.wait(machine, "started").json()["state"] == "started"
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
    assert api("GET", f"{path}/colour").json() == {"value": "red"}
    assert api("DELETE", f"{path}/colour").status_code == 204
    assert api("GET", path).json() == {}
    assert api("GET", f"{path}/colour").status_code == 404
    assert api.get(machine["id"])["instance_id"] == machine["instance_id"]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_many_keys_of_metadata_are_changed_at_once(api, method):
    machine = api.create(skip_launch=True, metadata={"kept": "1", "changed": "1", "null": "1", "empty": "1"})
    path = f"/{machine['id']}/metadata"
    changes = {"changed": "2", "new": "3", "null": None, "empty": ""}
    stale = api(method, path, metadata=changes, machine_version="01OLD")
    assert (stale.status_code, "01OLD" in stale.json()["error"]) == (412, True)
    assert len(api("GET", path).json()) == 4
    assert api(method, path, metadata=changes, machine_version=machine["instance_id"]).status_code == 204
    assert api("GET", path).json() == {"kept": "1", "changed": "2", "new": "3"}
    assert api(method, path, metadata={"kept": "4"}).status_code == 204
    assert api("GET", path).json()["kept"] == "4"


def test_metadata_without_a_value_is_a_bad_request(api):
    machine = api.create(skip_launch=True)
    for body in ({}, {"value": None}, {"value": 1}, {"value": ["x"]}, {"other": "x"}):
        refused = api("POST", f"/{machine['id']}/metadata/key", **body)
        assert (refused.status_code, "value" in refused.json()["error"]) == (400, True)
    refused = api("PUT", f"/{machine['id']}/metadata", metadata={"key": 1})
    assert (refused.status_code, "metadata.key" in refused.json()["error"]) == (400, True)


def test_a_list_can_be_narrowed_to_states_and_a_region(api):
    mark = uuid.uuid4().hex
    stock = api.create(skip_launch=True, metadata={"mark": mark})
    failed = api.create(["/no/such/program"], metadata={"mark": mark})
    running = api.create(metadata={"mark": mark})
    for machine, state in ((failed, "failed"), (running, "started")):
        while api.get(machine["id"])["state"] != state:
            pass
    state = api.get(stock["id"])["state"]

    def listed(query):
        return [machine["id"] for machine in api("GET", f"?metadata.mark={mark}&{query}").json()]

    assert listed(f"state={state}") == [stock["id"]]
    assert listed("state=failed,started") == [failed["id"], running["id"]]
    assert listed("state=suspended") == []
    assert len(listed("region=iad")) == 3
    assert listed("region=fra") == []


def test_a_summary_leaves_out_what_is_large(api):
    mark = uuid.uuid4().hex
    machine = api.create(skip_launch=True, metadata={"mark": mark})
    [summary] = api("GET", f"?metadata.mark={mark}&summary=true").json()
    assert summary["id"] == machine["id"]
    assert summary["state"]
    assert not {"config", "events", "checks", "host_status", "nonce"} & set(summary)


def test_a_list_comes_in_pages(api):
    mark = uuid.uuid4().hex
    made = [api.create(skip_launch=True, metadata={"mark": mark})["id"] for _ in range(3)]
    path = f"?metadata.mark={mark}&limit=2"
    first = api("GET", path)
    assert [machine["id"] for machine in first.json()] == made[:2]
    second = api("GET", f"{path}&cursor={first.headers['fly-next-cursor']}")
    assert [machine["id"] for machine in second.json()] == made[2:]
    assert "fly-next-cursor" not in second.headers
    assert "fly-next-cursor" not in api("GET", f"?metadata.mark={mark}&limit=3").headers
    assert api("GET", "?cursor=nonsense").status_code == 400


def test_events_are_20_unless_a_limit_says_otherwise_and_50_at_most(api):
    machine = api.create()
    for _ in range(9):
        assert api.wait(machine, "started").ok
        assert api("POST", f"/{machine['id']}/stop").ok
        assert api.wait(machine, "stopped").ok
        assert api("POST", f"/{machine['id']}/start").ok
    path = f"/{machine['id']}/events"
    everything = api("GET", f"{path}?limit=1000").json()
    assert len(everything) > 20
    assert len(everything) <= 50
    assert api("GET", path).json() == everything[:20]
    assert api("GET", f"{path}?limit=3").json() == everything[:3]
    assert api("GET", f"{path}?limit=x").status_code == 400


def test_versions_are_told_newest_first_with_their_configuration(api):
    machine = api.create(skip_launch=True, metadata={"v": "1"})
    while not (answer := api("POST", f"/{machine['id']}", config={"image": api.fly.image, "metadata": {"v": "2"}},
                             skip_launch=True)).ok:  # fmt: skip
        assert answer.status_code == 412  # until its image is there
    versions = api("GET", f"/{machine['id']}/versions").json()
    assert [version["version"] for version in versions] == [answer.json()["instance_id"], machine["instance_id"]]
    assert [version["user_config"]["metadata"]["v"] for version in versions] == ["2", "1"]


def test_a_machine_is_cordoned_until_it_is_uncordoned(api):
    machine = api.create(skip_launch=True)
    assert api.get(machine["id"])["cordoned"] is False
    assert api("POST", f"/{machine['id']}/cordon").json() == {"ok": True}
    assert api.get(machine["id"])["cordoned"] is True
    assert api("POST", f"/{machine['id']}/uncordon").json() == {"ok": True}
    assert api.get(machine["id"])["cordoned"] is False
    config = {"image": api.fly.image}
    assert api("POST", config=config, skip_launch=True, skip_service_registration=True).json()["cordoned"] is True


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
        ({"image": "x", "guest": {"memory_mb": -256}}, 422, "-256"),
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
    updated = api("POST", f"/{machine['id']}", config=config, current_version=machine["instance_id"]).json()
    assert updated["instance_id"] != machine["instance_id"]
    assert updated["config"]["metadata"] == {"v": "2"}
    assert api.wait(updated, "started").ok


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
    events = [event for event in api("GET", f"/{machine['id']}/events?limit=50").json() if event["type"] == "exit"]
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
    other = {"fly-machine-lease-nonce": "other"}
    for headers in ({}, other):
        assert api("POST", path, headers=headers, ttl=60).status_code == 409
        for change in ("stop", "cordon", "metadata/key"):
            assert api("POST", f"/{machine['id']}/{change}", headers=headers, value="x").status_code == 409
    refreshed = api("POST", path, headers=nonce, ttl=120)
    assert refreshed.json()["data"]["nonce"] == nonce["fly-machine-lease-nonce"]
    assert api("GET", path).json()["data"]["description"] == ""
    assert api("POST", f"/{machine['id']}/stop", headers=nonce).ok


def test_a_lease_is_released_with_its_nonce_only(api):
    machine = api.create(skip_launch=True)
    path = f"/{machine['id']}/lease"
    nonce = {"fly-machine-lease-nonce": api("POST", path, ttl=60).json()["data"]["nonce"]}
    nameless = api("DELETE", path)
    assert (nameless.status_code, "fly-machine-lease-nonce" in nameless.json()["error"]) == (400, True)
    assert api("DELETE", path, headers={"fly-machine-lease-nonce": "other"}).status_code == 409
    released = api("DELETE", path, headers=nonce)
    assert (released.status_code, released.json()) == (200, {"status": "success", "data": {"ok": True}})
    assert api("GET", path).status_code == 404
    assert api("DELETE", path, headers=nonce).status_code == 404
    assert api("DELETE", f"/{machine['id']}?force=true").ok


def test_the_time_of_a_lease_is_told_in_the_body_or_as_fly_s_client_does_in_the_query(api):
    expiries = []
    for query, body in (("", {"ttl": 1000}), ("?ttl=2000", {}), ("", {})):
        machine = api.create(skip_launch=True)
        lease = api("POST", f"/{machine['id']}/lease{query}", **body).json()["data"]
        expiries.append(lease["expires_at"])
    assert expiries[1] - expiries[0] >= 999
    assert expiries[2] < expiries[0]
    for ttl in ("-1", "x", "9" * 30):
        assert api("POST", f"/{machine['id']}/lease?ttl={ttl}").status_code == 400


def test_a_list_shows_a_nonce_only_to_who_asks_for_leases(api):
    mark = uuid.uuid4().hex
    machine = api.create(skip_launch=True, metadata={"mark": mark})
    nonce = api("POST", f"/{machine['id']}/lease", ttl=60).json()["data"]["nonce"]
    [plain] = api("GET", f"?metadata.mark={mark}").json()
    [with_leases] = api("GET", f"?metadata.mark={mark}&include_leases=true").json()
    assert "nonce" not in plain
    assert with_leases["nonce"] == nonce


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


@pytest.mark.parametrize("field", ["name", "app_name"])
def test_apps_can_be_made_listed_and_deleted(api, field):
    name = f"app-{uuid.uuid4().hex}"
    organization = uuid.uuid4().hex
    body = {field: name, "org_slug": organization}
    made = api.raw("POST", "/apps", json=body)
    assert (made.status_code, made.json()["id"]) == (201, name)
    again = api.raw("POST", "/apps", json=body)
    assert (again.status_code, again.json()["status"]) == (422, "name_taken")
    assert api.raw("GET", f"/apps/{name}").json()["name"] == name
    listed = api.raw("GET", f"/apps?org_slug={organization}").json()
    assert (listed["total_apps"], [app["name"] for app in listed["apps"]]) == (1, [name])
    assert api.raw("DELETE", f"/apps/{name}").status_code == 202
    assert api.raw("GET", f"/apps/{name}").status_code == 404
    assert api.raw("GET", f"/apps?org_slug={organization}").json() == {"total_apps": 0, "apps": []}
    assert api.raw("GET", "/apps").status_code == 400


def test_an_app_has_a_name_that_can_be_a_host_s(api):
    for name in ("Upper", "under_score", "-dash", "a" * 64, "with space"):
        assert api.raw("POST", "/apps", json={"name": name, "org_slug": "personal"}).status_code == 422


def test_an_app_is_deleted_once_by_many_who_ask_at_once(api):
    name = f"app-{uuid.uuid4().hex}"
    api.raw("POST", "/apps", json={"name": name, "org_slug": "personal"})
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: api.raw("DELETE", f"/apps/{name}").status_code, range(8)))
    assert set(answers) <= {202, 404}
    assert 202 in answers


def test_secrets_are_told_by_name_and_digest_and_never_by_value():
    from flyexecutor import LocalFly  # noqa: PLC0415

    with LocalFly(secrets={"A": "same", "B": "same", "C": "other"}) as fly:
        api = Api(fly)
        path = f"/apps/{fly.app}/secrets"
        answer = api.raw("GET", f"{path}?show_secrets=true")
        found = {secret["name"]: secret for secret in answer.json()["secrets"]}
        assert set(found) == {"A", "B", "C"}
        assert found["A"]["digest"] == found["B"]["digest"] != found["C"]["digest"]
        assert api.raw("GET", f"{path}/B?show_secrets=true").json() == found["B"]
        assert "same" not in answer.text
        assert "value" not in found["B"]
        assert api.raw("GET", f"{path}/D").status_code == 404
        api.session.close()


def test_a_body_counts_whatever_its_content_type_says(api):
    """curl -d says that it sends a form."""
    machine = api.create(skip_launch=True)
    path = f"/apps/{api.fly.app}/machines/{machine['id']}/metadata/key"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert api.raw("POST", path, data='{"value": "x"}', headers=form).status_code == 204


def test_a_known_path_with_another_method_says_which_it_has(api):
    answer = api.raw("PUT", "/apps")
    assert (answer.status_code, {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))) == (405, True)
    assert answer.json()["error"]


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
