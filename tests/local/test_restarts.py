"""Restarts are counted within five minutes, not for ever."""

import pytest

from flyexecutor.local import LocalFly
from tests.local.conftest import Api

WINDOW = 300.0  # seconds, of Fly's
FAIL_AFTER_A_WHILE = ["sh", "-c", "sleep 0.3; exit 3"]


def exits(api, machine):
    return [event for event in api.get(machine["id"])["events"] if event["type"] == "exit"]


def test_a_machine_that_fails_now_and_then_is_restarted_more_often_than_its_retries():
    with LocalFly(rate_limits=False, image=0.0, speed=WINDOW / 0.1) as fly:  # five minutes are a tenth of a second
        api = Api(fly)
        machine = api.create(FAIL_AFTER_A_WHILE, restart={"policy": "on-failure", "max_retries": 1})
        while len(exits(api, machine)) < 4:
            assert api.get(machine["id"])["state"] != "stopped"
        assert {event["request"]["exit_event"]["restarting"] for event in exits(api, machine)} == {True}
        assert exits(api, machine)[0]["request"]["restart_count"] == 0
        api.session.close()


@pytest.mark.parametrize("retries", [1, 2])
def test_within_five_minutes_its_retries_are_all(retries):
    with LocalFly(rate_limits=False, image=0.0) as fly:
        api = Api(fly)
        machine = api.create(["false"], restart={"policy": "on-failure", "max_retries": retries})
        assert api.wait(machine, "stopped").ok
        assert len(exits(api, machine)) == retries + 1
        api("POST", f"/{machine['id']}/start")  # by hand: they are counted anew
        while len(exits(api, machine)) < 2 * (retries + 1):
            pass
        assert api.wait(machine, "stopped").ok
        assert exits(api, machine)[0]["request"]["restart_count"] == retries
        api.session.close()
