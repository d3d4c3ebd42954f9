import threading
import time
import traceback

import pytest
import requests
import responses

from flyexecutor.errors import MachinesError
from flyexecutor.fleet import api as machines
from flyexecutor.fleet.api import MachinesClient, is_capacity, is_transient

OF_LANE = {"config": {"metadata": {"flyexecutor": "lane"}}}
TOKEN = "FlyV1 fm2_secret,fm2_more"
BASE = "http://api.test/v1/apps/tasks/machines"
MACHINE = {"id": "m1", "name": "n", "state": "created", "region": "iad", "instance_id": "01"}


class OurCalls(responses.RequestsMock):
    """Mocks the requests of all threads: an executor of an earlier test may still ask for something elsewhere."""

    @property
    def calls(self):
        return [call for call in super().calls if call.request.url.startswith("http://api.test/")]


@pytest.fixture
def api():
    with OurCalls() as mocked:
        yield mocked


@pytest.fixture
def client(monkeypatch):
    pauses, here, sleep = [], threading.get_ident(), time.sleep

    def pause(seconds):
        # A thread of an executor of an earlier test may be at it, too.
        (pauses.append if threading.get_ident() == here else sleep)(seconds)

    monkeypatch.setattr(machines.time, "sleep", pause)
    client = MachinesClient("http://api.test", "tasks", TOKEN)
    client.pauses = pauses
    yield client
    client.close()


def test_the_token_is_sent_as_it_is(api, client):
    foreign = {**MACHINE, "id": "m0", "config": {"metadata": {"colour": "blue"}}}
    api.get(BASE, json=[foreign, {**MACHINE, **OF_LANE}])
    (machine,) = client.list_all(attempts=1)
    assert machine.id == "m1"
    assert api.calls[0].request.headers["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    "odd",
    [
        {"id": "m0"},
        {**MACHINE, "created_at": "yesterday"},
        {**MACHINE, "events": [{"type": "exit", "request": "by hand"}], "config": {"metadata": ["x"]}},
        {**MACHINE, "events": {"of": "another edition"}},
        None,
    ],
    ids=repr,
)
def test_a_machine_of_somebody_elses_may_be_of_any_form(api, client, odd):
    api.get(BASE, json=[odd, {**MACHINE, **OF_LANE}])
    assert [machine.id for machine in client.list_all(attempts=1)] == ["m1"]


def test_an_answer_that_is_no_list_is_told(api, client):
    for told in ({}, {"machines": []}, "down for maintenance", 7):
        api.get(BASE, json=told)
        with pytest.raises(MachinesError, match="no list of machines"):
            client.list_all(attempts=1)


def test_a_machine_of_a_schedule_is_one_though_its_host_tells_half_of_it(api, client):
    half = {"metadata": {"flyexecutor": "lane", "flyexecutor_schedule": "nightly"}}
    api.get(BASE, json=[{**MACHINE, "host_status": "unreachable", "incomplete_config": half}])
    (machine,) = client.list_all(attempts=1)
    assert (machine.schedule, machine.is_scheduled) == ("", True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 422])
def test_a_refusal_is_told_once_with_status_text_and_request_id_and_without_the_token(api, client, status):
    api.post(f"{BASE}/m1/start", json={"error": "because"}, status=status, headers={"fly-request-id": "01REQ"})
    with pytest.raises(MachinesError) as told:
        client.start("m1")
    assert (told.value.status, told.value.request_id) == (status, "01REQ")
    assert "because" in str(told.value)
    assert len(api.calls) == 1
    shown = "".join(traceback.format_exception(told.value)) + repr(told.value) + repr(client)
    assert "fm2" not in shown


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_troubles_are_tried_again_a_bounded_number_of_times(api, client, status):
    for _ in range(machines.ATTEMPTS):
        api.post(f"{BASE}/m1/start", body="<html>proxy</html>", status=status)
    with pytest.raises(MachinesError) as told:
        client.start("m1")
    assert is_transient(told.value)
    assert len(client.pauses) == machines.ATTEMPTS - 1
    assert max(client.pauses) <= machines.LONGEST_PAUSE


@pytest.mark.parametrize(("of_the_spread", "pauses"), [(min, [0.25, 0.5, 1.0, 1.5]), (max, [0.5, 1.0, 2.0, 3.0])])
def test_each_pause_is_twice_the_last_one_or_up_to_half_of_that_less(api, client, monkeypatch, of_the_spread, pauses):
    monkeypatch.setattr(machines.random, "uniform", lambda *ends: of_the_spread(ends))
    monkeypatch.setattr(machines, "LONGEST_PAUSE", 3.0)
    for _ in range(machines.ATTEMPTS):
        api.get(f"{BASE}/m1", status=500)
    with pytest.raises(MachinesError):
        client.get("m1")
    assert client.pauses == pauses


def test_a_netrc_does_not_replace_the_token(api, client, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine api.test login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    api.get(BASE, json=[])
    client.list_all(attempts=1)
    assert api.calls[0].request.headers["Authorization"] == f"Bearer {TOKEN}"


def test_success_after_a_429_is_a_success(api, client):
    api.post(f"{BASE}/m1/start", status=429)
    api.post(f"{BASE}/m1/start", json={"previous_state": "stopped"})
    client.start("m1")
    assert len(client.pauses) == 1


def test_an_unreachable_api_is_told_by_its_address_and_not_by_the_text_of_requests(api, client):
    for _ in range(machines.ATTEMPTS):
        api.get(BASE, body=requests.ConnectionError(f"headers were {TOKEN}"))
    with pytest.raises(MachinesError, match=r"http://api\.test can't be reached \(ConnectionError\)") as told:
        client.list_all(attempts=machines.ATTEMPTS)
    assert told.value.status is None
    assert "fm2" not in "".join(traceback.format_exception(told.value))


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_list_is_asked_for_as_often_as_its_asker_says(api, client, attempts):
    for _ in range(attempts):
        api.get(BASE, status=429)
    with pytest.raises(MachinesError):
        client.list_all(attempts=attempts)
    assert len(client.pauses) == attempts - 1


TAKEN = 'already_exists: unique machine name violation, machine ID m1 already exists with name "n"'


def test_a_name_that_is_taken_is_our_own_earlier_create_and_costs_no_list(api, client):
    api.post(BASE, json={"error": TAKEN}, status=409)
    for _ in range(2):
        api.get(f"{BASE}/m1", status=404)  # a fresh machine may be invisible for a moment
    api.get(f"{BASE}/m1", json={**MACHINE, **OF_LANE})
    assert client.create("n", {"image": "i"}, "iad", "lane").id == "m1"
    assert len(client.pauses) == 2


@pytest.mark.parametrize(
    "told",
    [
        {**MACHINE, "config": {"metadata": {"flyexecutor": "another"}}},
        {**MACHINE, "config": {}},
        {**MACHINE, **OF_LANE, "name": "another"},
    ],
)
def test_a_name_that_somebody_else_has_taken_is_told(api, client, told):
    api.post(BASE, json={"error": TAKEN}, status=409)
    api.get(f"{BASE}/m1", json=told)
    with pytest.raises(MachinesError, match="already exists") as error:
        client.create("n", {"image": "i"}, "iad", "lane")
    assert error.value.status == 409


def test_a_name_that_was_taken_by_a_machine_that_is_gone_for_good_is_told(api, client):
    api.post(BASE, json={"error": TAKEN}, status=409)
    for _ in range(machines.ATTEMPTS):
        api.get(f"{BASE}/m1", status=404)
    with pytest.raises(MachinesError, match="already exists"):
        client.create("n", {"image": "i"}, "iad", "lane")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (409, "aborted: the lease of this machine has another name"),
        (422, "invalid hostname in config.dns"),
        (422, "already_exists: unique name, machine ID m1"),
        (403, "the app has no name that this token knows"),
    ],
)
def test_nothing_is_decided_by_the_word_name_in_a_refusal(api, client, status, text):
    api.post(BASE, json={"error": text}, status=status)
    with pytest.raises(MachinesError):
        client.create("n", {"image": "i"}, "iad", "lane")
    assert len(api.calls) == 1


def test_a_machine_that_is_gone_is_none(api, client):
    api.get(f"{BASE}/m9", json={"error": "machine not found"}, status=404)
    assert client.get("m9") is None


@pytest.mark.parametrize("machine_id", ["../../other/machines/m1", "..", "m1/stop", "m1?force=true", ""])
def test_an_id_that_is_none_leads_to_no_request(api, client, machine_id):
    assert client.get(machine_id) is None
    client.destroy(machine_id, force=True)
    for ask in (client.start, client.stop):
        with pytest.raises(MachinesError, match="no machine has the id"):
            ask(machine_id)


@pytest.mark.parametrize("status", [403, 500])
def test_a_machine_that_can_not_be_looked_at_is_not_taken_for_gone(api, client, status):
    for _ in range(machines.ATTEMPTS if status == 500 else 1):
        api.get(f"{BASE}/m9", status=status)
    with pytest.raises(MachinesError):
        client.get("m9")


def test_one_that_is_gone_is_destroyed_and_another_error_is_told(api, client):
    api.delete(f"{BASE}/m9", status=404)
    client.destroy("m9")
    api.delete(f"{BASE}/m8", json={"error": "it runs"}, status=412)
    with pytest.raises(MachinesError, match="it runs"):
        client.destroy("m8")


@pytest.mark.parametrize(("force", "query"), [(False, {}), (True, {"force": "true"})])
def test_a_machine_that_runs_is_destroyed_only_by_force(api, client, force, query):
    api.delete(f"{BASE}/m1", match=[responses.matchers.query_param_matcher(query)])
    client.destroy("m1", force=force)


def test_what_is_known_of_a_machine_whose_host_does_not_answer_is_read(api, client):
    config = {"metadata": {"flyexecutor": "lane", "flyexecutor_keeper": "1"}, "guest": {"memory_mb": 512}}
    api.get(f"{BASE}/m1", json={**MACHINE, "host_status": "unreachable", "config": None, "incomplete_config": config})
    machine = client.get("m1")
    assert (machine.host_status, machine.lane, machine.keeper) == ("unreachable", "lane", True)
    assert machine.guest == {"cpu_kind": "shared", "cpus": 1, "memory_mb": 512}


@pytest.mark.parametrize(
    "text",
    [
        "could not reserve resource for machine: insufficient memory available to fulfill request",
        "organization has reached its machine limit of 50",
        "insufficient resources available",
    ],
)
def test_no_room_is_capacity_and_neither_permanent_nor_transient(text):
    error = MachinesError(text, 412)
    assert is_capacity(error)
    assert not is_transient(error)
    assert not is_capacity(MachinesError("invalid guest", 422))


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({}, (True, False)),
        ({"flyexecutor_launch": "0", "flyexecutor_prepared": "1"}, (False, True)),
        ({"flyexecutor_launch": "1", "flyexecutor_prepared": "0"}, (True, False)),
    ],
)
def test_how_a_machine_was_made_is_read_from_its_metadata(api, client, metadata, told):
    api.get(f"{BASE}/m1", json={**MACHINE, "config": {"metadata": metadata}})
    machine = client.get("m1")
    assert (machine.launches, machine.prepared) == told


@pytest.mark.parametrize("nested", [False, True])
def test_the_last_exit_is_read_from_either_form_of_event(api, client, nested):
    told = {"exit_code": 137, "signal": 9, "oom_killed": True}
    request = {"MonitorEvent": {"exit_event": told}} if nested else {"exit_event": told}
    events = [{"type": "stop", "timestamp": 3}, {"type": "exit", "timestamp": 2, "request": request}]
    api.get(f"{BASE}/m1", json={**MACHINE, "events": events})
    exit_ = client.get("m1").exit
    assert (exit_.exit_code, exit_.at, str(exit_)) == (137, 2, "out of memory (oom_killed)")


def test_an_answer_that_is_no_machine_is_told(api, client):
    api.get(BASE, body="<html>captive portal</html>")
    api.post(BASE, json={"ok": True})
    for ask in (lambda: client.list_all(attempts=machines.ATTEMPTS), lambda: client.create("n", {}, None, "lane")):
        with pytest.raises(MachinesError, match="FLY_API_HOSTNAME"):
            ask()


@pytest.mark.parametrize(
    ("status", "text", "remedy"),
    [
        (422, "region maa not found", "regions, or FLY_REGION, must name regions of Fly (fly platform regions)"),
        (400, "invalid_argument: unknown region 'x'", "regions, or FLY_REGION, must name"),
        (404, "region maa not found", "regions, or FLY_REGION, must name"),
        (422, "organization has reached its machine limit of 10", "a trial organisation has 10 (https://fly.io/trial)"),
        (404, "app not found", "check that the app 'tasks' exists"),
        (422, "invalid guest", "check the image"),
        (412, "insufficient resources in region fra", "insufficient resources in region fra"),
    ],
)
def test_a_refused_create_tells_what_to_do(api, client, status, text, remedy):
    api.post(BASE, json={"error": text}, status=status)
    with pytest.raises(MachinesError) as told:
        client.create("n", {}, "maa", "lane")
    assert remedy in str(told.value)
    assert ("FLY_REGION" in str(told.value)) is ("must name" in remedy)
