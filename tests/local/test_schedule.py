"""A machine with a schedule is started again and again, from its creation until its end."""

import time

import pytest

from flyexecutor.local import LocalFly
from tests.local.conftest import EXIT_0, SLEEP, Api

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture(scope="module")
def quick_fly():
    with LocalFly(rate_limits=False, speed=HOUR * 10) as fly:  # an hour is a tenth of a second
        yield fly


@pytest.fixture
def api(quick_fly):
    api = Api(quick_fly)
    yield api
    api.session.close()


def starts(api, machine):
    """When it was started, in seconds."""
    events = api.get(machine["id"])["events"]
    return [event["timestamp"] / 1000 for event in reversed(events) if event["status"] == "starting"]


def wait_for_starts(api, machine, count):
    while len(starts(api, machine)) < count:
        pass
    return starts(api, machine)


def test_it_runs_at_its_creation_and_each_hour_after_it(api):
    created = time.time()
    machine = api.create(EXIT_0, schedule="hourly")
    assert wait_for_starts(api, machine, 3)[2] - created >= 0.2 - 0.001  # timestamps are milliseconds
    events = reversed(api.get(machine["id"])["events"])
    assert [event["source"] for event in events if event["status"] == "starting"][:3] == ["user", "flyd", "flyd"]
    api("DELETE", f"/{machine['id']}?force=true")


def test_with_skip_launch_it_first_runs_after_an_hour(api):
    created = time.time()
    machine = api.create(EXIT_0, schedule="hourly", skip_launch=True)
    assert wait_for_starts(api, machine, 1)[0] - created >= 0.1 - 0.001
    api("DELETE", f"/{machine['id']}?force=true")


def test_a_machine_that_still_runs_misses_its_turn(api):
    machine = api.create(SLEEP, schedule="hourly")
    other = api.create(EXIT_0, schedule="hourly")
    wait_for_starts(api, other, 4)
    assert len(starts(api, machine)) == 1
    for one in (machine, other):
        api("DELETE", f"/{one['id']}?force=true")


def test_a_destroyed_machine_and_one_without_schedule_any_more_start_no_more(api):
    destroyed, updated = api.create(EXIT_0, schedule="hourly"), api.create(EXIT_0, schedule="hourly")
    api("DELETE", f"/{destroyed['id']}?force=true")
    api.wait(updated, "stopped")
    config = {"image": api.fly.image, "init": {"exec": EXIT_0}}
    while not api("POST", f"/{updated['id']}", config=config, skip_launch=True).ok:
        pass  # it runs just now
    counts = len(starts(api, destroyed)), len(starts(api, updated))
    other = api.create(EXIT_0, schedule="hourly")
    wait_for_starts(api, other, 4)
    assert (len(starts(api, destroyed)), len(starts(api, updated))) == counts
    assert api.get(destroyed["id"])["state"] == "destroyed"
    api("DELETE", f"/{other['id']}?force=true")


@pytest.mark.parametrize(("schedule", "days"), [("daily", 1), ("weekly", 7), ("monthly", 30)])
def test_the_other_intervals_are_days_of_24_hours(schedule, days):
    with LocalFly(rate_limits=False, speed=days * DAY * 5) as fly:  # each lasts a fifth of a second
        api = Api(fly)
        created = time.time()
        machine = api.create(EXIT_0, schedule=schedule, skip_launch=True)
        assert 0.2 - 0.001 <= wait_for_starts(api, machine, 1)[0] - created < 5.0
        api.session.close()


def test_an_unknown_schedule_is_refused_with_its_value(api):
    refused = api("POST", config={"image": api.fly.image, "schedule": "yearly"})
    assert (refused.status_code, "'yearly'" in refused.json()["error"]) == (422, True)


def test_a_machine_with_a_schedule_can_t_be_suspended(api):
    machine = api.create(SLEEP, schedule="hourly")
    assert api.wait(machine, "started").ok
    refused = api("POST", f"/{machine['id']}/suspend")
    assert (refused.status_code, "schedule" in refused.json()["error"]) == (412, True)
    api("DELETE", f"/{machine['id']}?force=true")
