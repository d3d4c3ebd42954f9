"""Whatever several clients ask of one machine at once, none is told of an error of ours, and it comes to rest."""

import random
import threading

import pytest

from flyexecutor.local import LocalFly, apps
from flyexecutor.local.pace import Pace
from flyexecutor.local.problems import Refused
from tests.local.conftest import SLEEP, Api

FAILS = ["sh", "-c", "trap 'exit 0' INT; sleep 0.2; exit 1"]
CLIENTS = 6
REQUESTS = 25


@pytest.fixture(scope="module")
def quick_fly():
    with LocalFly(rate_limits=False, show_output=False, image=0.05, boot=0.01, resume=0.01, suspend=0.02) as fly:
        yield fly


def ask(fly, machine, number, errors):
    api, chances = Api(fly), random.Random(number)
    config = {"image": fly.image, "init": {"exec": SLEEP}, "stop_config": {"timeout": "50ms"}}
    bodies = {
        "/start": {},
        "/stop": {"timeout": "50ms"},
        "/suspend": {},
        "/restart?timeout=100ms": {},
        "/signal": {"signal": "SIGKILL"},
        "": {"config": config},
    }
    for _ in range(REQUESTS):
        path = chances.choice(["/start", *bodies])
        answer = api("POST", f"/{machine['id']}{path}", **bodies[path])
        if answer.status_code not in {200, 409, 412}:
            errors.append((path, answer.status_code, answer.text))
    api.session.close()


@pytest.mark.parametrize("command", [SLEEP, FAILS])
def test_a_machine_of_several_minds_comes_to_rest(quick_fly, command):
    api = Api(quick_fly)
    restart = {"policy": "on-failure", "max_retries": 3}
    machine = api.create(command, restart=restart, stop_config={"timeout": "50ms"})
    errors = []
    threads = [threading.Thread(target=ask, args=(quick_fly, machine, n, errors)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert api("GET", f"/{machine['id']}/wait?state=settled&timeout=20").ok
    assert api("DELETE", f"/{machine['id']}?force=true").ok
    assert api.wait(machine, "destroyed").ok
    api.session.close()


@pytest.fixture
def made(tmp_path):
    """What is behind the API, with an app and an image."""
    made = apps.Apps(tmp_path, machine_limit=None, show_output=False, pace=Pace())
    made.create_app("a", "personal")
    made.add_image({"name": "i"})
    return made


@pytest.mark.parametrize("launch", [True, False])
def test_a_machine_that_is_destroyed_before_its_image_is_asked_for_stays_so(made, launch):
    machine = made.create_machine("a", {"config": {"image": "i"}})
    machine.destroy(force=True)
    machine.fetch_image(launch=launch)
    assert machine.state == "destroyed"


def test_a_machine_that_is_created_while_its_app_is_deleted_does_not_outlive_it(made, monkeypatch):
    def check_and_delete(told):
        made.delete_app("a")
        return told

    monkeypatch.setattr(apps, "check_config", check_and_delete)
    with pytest.raises(Refused, match="app not found"):
        made.create_machine("a", {"config": {"image": "i"}})
    assert made.states() == {}
