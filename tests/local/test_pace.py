"""Boots, resumes and suspensions take the time that a LocalFly was told, and its speed shortens them."""

import contextlib
import time

import pytest

from flyexecutor.local import LocalError, LocalFly
from tests.local.conftest import Api


@contextlib.contextmanager
def api_of(**options):
    with LocalFly(rate_limits=False, **{"image": 0.1, **options}) as fly:
        api = Api(fly)
        yield api
        api.session.close()


def seconds_until(api, machine, state, action):
    before = time.monotonic()
    assert api("POST", f"/{machine['id']}/{action}").ok
    assert api.wait(machine, state).ok
    return time.monotonic() - before


def test_a_boot_and_a_resume_take_their_seconds():
    with api_of(boot=0.4, resume=0.2) as api:
        machine = api.make_stock()
        assert seconds_until(api, machine, "started", "start") >= 0.4
        api("POST", f"/{machine['id']}/suspend")
        assert seconds_until(api, machine, "started", "start") >= 0.2
        events = [event["timestamp"] for event in reversed(api.get(machine["id"])["events"])]
        assert events[-1] - events[-2] < 400  # milliseconds: it was no cold boot


def test_a_speed_makes_boots_shorter():
    with api_of(boot=400.0, speed=1000.0) as api:
        assert 0.4 <= seconds_until(api, api.make_stock(), "started", "start") < 20


def test_a_machine_that_is_booting_is_not_billed_and_can_be_stopped():
    with api_of(image=0.0, boot=600.0) as api:
        machine = api.create()
        assert api.get(machine["id"])["state"] == "starting"
        assert api.fly.billed() == {machine["id"]: 0.0}
        assert api("POST", f"/{machine['id']}/stop").ok
        assert api.wait(machine, "stopped").ok
        assert api("POST", f"/{machine['id']}/start").json()["previous_state"] == "stopped"
        assert api("DELETE", f"/{machine['id']}?force=true").ok
        assert api.wait(machine, "destroyed").ok


def test_a_boot_that_was_stopped_does_not_end_a_later_one():
    with api_of(image=0.0, boot=0.3) as api:
        machine = api.create()
        api("POST", f"/{machine['id']}/stop")
        api.wait(machine, "stopped")
        assert seconds_until(api, machine, "started", "start") >= 0.3


def test_a_start_while_it_is_suspending_cancels_the_suspension(tmp_path):
    with api_of(suspend=600.0) as api:
        machine = api.create(["sh", "-c", "while :; do sleep 0.01; date >> $OUT; done"], env={"OUT": f"{tmp_path}/out"})
        api.wait(machine, "started")
        api("POST", f"/{machine['id']}/suspend")
        assert "'suspending'" in api("POST", f"/{machine['id']}/stop").json()["error"]
        assert api("POST", f"/{machine['id']}/start").json()["previous_state"] == "suspending"
        assert api.wait(machine, "started").ok
        out = tmp_path / "out"
        size = out.stat().st_size if out.exists() else 0
        while not out.exists() or out.stat().st_size == size:  # it goes on
            pass


def test_a_stop_during_a_resume_lets_the_program_see_the_signal(tmp_path):
    with api_of(resume=600.0) as api:
        handler = f"trap 'touch {tmp_path}/handled; exit' INT; touch {tmp_path}/ready; while :; do sleep 0.01; done"
        machine = api.create(["sh", "-c", handler])
        while not (tmp_path / "ready").exists():
            pass
        api("POST", f"/{machine['id']}/suspend")
        api("POST", f"/{machine['id']}/start")
        assert api.get(machine["id"])["state"] == "starting"
        api("POST", f"/{machine['id']}/stop")
        assert api.wait(machine, "stopped").ok
        assert (tmp_path / "handled").exists()


def test_a_speed_raises_the_rate_limits():
    with LocalFly(speed=1000.0) as fly:
        api = Api(fly)
        assert {api("GET").status_code for _ in range(20)} == {200}
        api.session.close()


@pytest.mark.parametrize("options", [{"speed": 0.0}, {"speed": -1.0}, {"boot": -1.0}, {"image": -1.0}])
def test_times_that_can_t_be_are_refused_with_their_value(options):
    with pytest.raises(LocalError, match=str(next(iter(options.values())))):
        LocalFly(**options)
