"""Calls that Fly makes by itself: each hour (here a second) a machine starts, submits its call, runs it, and stops."""

import pytest

from flyexecutor import FlyMachineExecutor, LocalFly, SettingsError, State
from tests import tasks

WAIT = 30.0


@pytest.fixture(scope="module")
def fast_fly():
    """A Fly whose hour is a second."""
    with LocalFly(rate_limits=False, speed=3600.0) as fly:
        yield fly


@pytest.fixture
def scheduler(fast_fly):
    with FlyMachineExecutor(local=fast_fly, max_workers=1, idle_timeout=0.2) as executor:
        yield executor
        for schedule in executor.schedules():
            executor.unschedule(schedule.name)


def test_a_schedule_runs_by_itself_and_its_runs_are_calls_like_others(scheduler, tmp_path, until):
    made = scheduler.schedule(tasks.append_line, tmp_path / "ran", "a line", every="hourly")
    assert (made.name, made.every) == ("append_line", "hourly")
    until(lambda: len(scheduler.schedules()[0].call_ids) >= 2)
    (seen,) = scheduler.schedules()
    future = scheduler.future(seen.call_ids[-1])
    assert future.result(WAIT) is None
    assert future.state() is State.SUCCEEDED
    assert future.machine_id == seen.machine_id
    assert (tmp_path / "ran").read_text().startswith("a line\n")


def test_its_machine_stops_between_two_runs_and_takes_no_reserved_start(scheduler, until):
    made = scheduler.schedule(tasks.machine_id, every="monthly", name="rarely")
    until(lambda: [one.state for one in scheduler.schedules()] == ["stopped"])
    assert scheduler.submit(tasks.machine_id).result(WAIT) != made.machine_id


def test_a_schedule_that_raises_is_a_call_that_failed_and_runs_again(scheduler, until):
    scheduler.schedule(tasks.raise_value_error, "bad day", every="hourly", name="fails")
    until(lambda: len(scheduler.schedules()[0].call_ids) >= 2)
    first = scheduler.schedules()[0].call_ids[-1]
    assert isinstance(scheduler.future(first).exception(WAIT), ValueError)


def test_a_schedule_is_cancelled_by_its_name(scheduler):
    scheduler.schedule(tasks.increment, 1, every="daily", name="once")
    with pytest.raises(SettingsError, match="no schedule is named 'twice': there is once"):
        scheduler.unschedule("twice")
    scheduler.unschedule("once")
    assert scheduler.schedules() == []


def test_a_second_schedule_of_the_same_name_is_refused(scheduler):
    scheduler.schedule(tasks.increment, 1, every="daily")
    with pytest.raises(SettingsError, match="'increment' is there already"):
        scheduler.schedule(tasks.increment, 2, every="daily")


def test_what_makes_no_sense_is_named(scheduler):
    with pytest.raises(SettingsError, match="every is 'yearly'"):
        scheduler.schedule(tasks.increment, 1, every="yearly")
    with pytest.raises(SettingsError, match="bytes when pickled"):
        scheduler.schedule(tasks.echo, bytes(100_000), every="daily")
