"""A new machine stays in `created` while its image is fetched, and can't be started until then."""

import contextlib

import pytest

from flyexecutor.local import LocalFly
from tests.local.conftest import Api


@contextlib.contextmanager
def api_of(**options):
    with LocalFly(rate_limits=False, **options) as fly:
        api = Api(fly)
        yield api
        api.session.close()


def transitions(api, machine):
    return [event["status"] for event in reversed(api.get(machine["id"])["events"])]


def milliseconds_in_created(api, machine):
    created, after = [event["timestamp"] for event in reversed(api.get(machine["id"])["events"])][:2]
    return after - created


@pytest.mark.parametrize("skip_launch", [False, True])
def test_while_its_image_is_fetched_a_machine_is_created_and_can_only_be_destroyed(skip_launch):
    with api_of(image=600.0) as api:
        machine = api.create(skip_launch=skip_launch)
        refused = api("POST", f"/{machine['id']}/start")
        text = "failed_precondition: unable to start machine from current state: 'created'"
        assert (refused.status_code, refused.json()["error"]) == (412, text)
        config = {"image": api.fly.image}
        others = [api("POST", f"/{machine['id']}/{action}") for action in ("stop", "suspend")]
        others += [
            api("POST", f"/{machine['id']}/signal", signal="SIGINT"),
            api("POST", f"/{machine['id']}", config=config),
        ]
        assert [one.status_code for one in others] == [412] * 4
        assert transitions(api, machine) == ["created"]
        assert api("DELETE", f"/{machine['id']}").ok
        assert api.wait(machine, "destroyed").ok


def test_when_its_image_is_there_a_machine_boots_by_itself():
    with api_of(image=0.3) as api:
        machine = api.create()
        assert api.wait(machine, "started").ok
        assert transitions(api, machine) == ["created", "starting", "started"]
        assert milliseconds_in_created(api, machine) >= 299


def test_stock_goes_on_to_stopped_and_never_by_that_to_its_end():
    with api_of(image=0.3) as api:
        machine = api.create(skip_launch=True, auto_destroy=True)
        assert api.wait(machine, "stopped").ok
        assert milliseconds_in_created(api, machine) >= 299
        assert api("POST", f"/{machine['id']}/start").json()["previous_state"] == "stopped"
        assert api.wait(machine, "started").ok


def test_stock_may_stay_created_and_be_started_from_there_as_the_documentation_has_it():
    with api_of(image=0.1) as api:
        api.fly.inject(stays_created=True)
        machine, other = api.create(skip_launch=True), api.create()
        assert api.wait(other, "started").ok
        while not (started := api("POST", f"/{machine['id']}/start")).ok:
            assert started.status_code == 412
        assert started.json()["previous_state"] == "created"
        assert api.wait(machine, "started").ok


def test_a_speed_shortens_the_image_phase_of_a_second_that_is_there_unless_told_otherwise():
    with api_of(speed=4.0) as api:
        machine = api.create()
        assert api.wait(machine, "started").ok
        assert 249 <= milliseconds_in_created(api, machine) < 1000


def test_a_machine_can_hang_in_created():
    with api_of(image=0.0) as api:
        api.fly.inject(stuck=["created"])
        machine = api.create()
        api.fly.inject()
        assert api.wait(machine, "started", timeout=1).status_code == 408
        assert api("POST", f"/{machine['id']}/start").status_code == 412
        assert api("DELETE", f"/{machine['id']}").ok


def test_a_new_machine_may_not_be_found_for_a_moment():
    with api_of(image=0.0) as api:
        api.fly.inject(invisible=0.3)
        machine = api.create()
        unseen = api("GET", f"/{machine['id']}")
        assert (unseen.status_code, machine["id"] in unseen.json()["error"]) == (404, True)
        while (seen := api("GET", f"/{machine['id']}")).status_code == 404:
            pass
        assert seen.json()["state"] == "started"
