"""Calls that Fly makes by itself: each hour (here a second) a machine starts, submits its call, runs it, and stops."""

import logging
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import redis

from flyexecutor import FlyMachineExecutor, LocalFly, SettingsError, State
from flyexecutor.errors import MachinesError
from flyexecutor.fleet import launch
from flyexecutor.fleet.api import MachinesClient
from flyexecutor.fleet.lists import Lists
from flyexecutor.store.calls import Store
from tests import tasks

WAIT = 30.0


@pytest.fixture(scope="module")
def fast_fly():
    """A Fly whose hour is a second."""
    with LocalFly(rate_limits=False, speed=3600.0) as fly:
        yield fly


def version_of(executor, schedule):
    """Another one after each update of its machine."""
    return executor._client.machines.get(schedule.machine_id).instance_id


@pytest.fixture
def scheduler(fast_fly):
    with FlyMachineExecutor(local=fast_fly, max_workers=1, idle_timeout=0.2) as executor:
        yield executor
        for schedule in executor.schedules():
            executor.unschedule(schedule.name)
        with redis.Redis.from_url(fast_fly.redis_url) as client:
            client.flushall()  # the runs of schedules of the same name


def test_a_schedule_runs_by_itself_and_its_runs_are_calls_like_others(scheduler, tmp_path, until):
    made = scheduler.schedule(tasks.append_line, tmp_path / "ran", "a line", every="hourly")
    assert (made.name, made.every) == ("append_line", "hourly")
    until(lambda: len(scheduler.schedules()[0].call_ids) >= 2)
    (seen,) = scheduler.schedules()
    future = scheduler.future(seen.call_ids[-1])
    assert (future.result(WAIT), future.name) == (None, "append_line")
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


def test_a_schedule_that_is_declared_again_is_the_same_and_asks_fly_for_nothing_but_its_state(
    scheduler, fast_fly, monkeypatch
):
    made = scheduler.schedule(tasks.increment, 1, every="daily")
    version = version_of(scheduler, made)
    again = scheduler.schedule(tasks.increment, 1, every="daily")
    assert (again.machine_id, [one.machine_id for one in scheduler.schedules()]) == (made.machine_id, [made.machine_id])
    assert version_of(scheduler, made) == version
    asked = []

    def note(method, path, *more, **options):
        asked.append((method, path))
        return request(method, path, *more, **options)

    # The next start of an app.
    with FlyMachineExecutor(local=fast_fly, max_workers=1, idle_timeout=0.2) as other:
        request = other._client.machines._request
        monkeypatch.setattr(other._client.machines, "_request", note)
        monkeypatch.setattr(other._client.store, "one_at_a_time", None)  # nobody is waited for
        assert other.schedule(tasks.increment, 1, every="daily", at_once=False).machine_id == made.machine_id
    assert asked == [("GET", f"/machines/{made.machine_id}")]


CHANGES = {
    "arguments": ((tasks.increment, 2), {}),
    "function": ((tasks.echo, 1), {}),
    "interval": ((tasks.increment, 1), {"every": "weekly"}),
    "options": ((tasks.increment, 1), {"timeout": 60}),
    "machine": ((tasks.increment, 1), {"env": {"OTHER": "1"}}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_schedule_that_differs_replaces_the_one_of_its_name(scheduler, until, change, caplog):
    made = scheduler.schedule(tasks.increment, 1, every="daily", name="job")
    until(lambda: scheduler.schedules()[0].state == "stopped")
    before = scheduler.schedules()[0].call_ids
    call, options = CHANGES[change]
    every = options.get("every", "daily")
    executor = scheduler.with_options(**{option: value for option, value in options.items() if option != "every"})
    caplog.clear()
    with caplog.at_level(logging.INFO, "flyexecutor"):
        again = executor.schedule(*call, every=every, name="job")
    (seen,) = scheduler.schedules()
    assert (seen.machine_id, seen.every, seen.function) == (made.machine_id, every, f"tests.tasks.{call[0].__name__}")
    assert again.function == seen.function
    assert seen.call_ids == before  # to be replaced is no reason to run
    version = version_of(scheduler, made)
    assert executor.schedule(*call, every=every, name="job").machine_id == made.machine_id
    assert version_of(scheduler, made) == version
    (told,) = [record for record in caplog.records if "job" in record.getMessage()]
    assert (told.levelno == logging.WARNING) == (change == "function")  # two may have the same name by mistake
    how = f"by one of {seen.function}" if change == "function" else "since what it was declared with differs"
    assert told.getMessage() == f"the schedule 'job' of {made.function} is replaced {how}"


def test_what_replaces_a_schedule_runs_at_the_next_time(scheduler, until, tmp_path):
    scheduler.schedule(tasks.append_line, tmp_path / "ran", "old", every="hourly")
    until(lambda: scheduler.schedules()[0].call_ids)
    scheduler.schedule(tasks.append_line, tmp_path / "ran", "new", every="hourly")
    until(lambda: "new" in (tmp_path / "ran").read_text() if (tmp_path / "ran").exists() else "")
    assert len(scheduler.schedules()) == 1


def test_the_first_run_is_at_once_or_after_an_interval_as_one_likes(scheduler, until):
    later = scheduler.schedule(tasks.increment, 1, every="daily", name="later", at_once=False)
    now = scheduler.schedule(tasks.increment, 1, every="daily", name="now")
    until(lambda: {one.name: one.state for one in scheduler.schedules()} == {"later": "stopped", "now": "stopped"})
    assert {one.name: len(one.call_ids) for one in scheduler.schedules()} == {"later": 0, "now": 1}
    for made in (later, now):
        assert made.next_at - time.time() == pytest.approx(86_400, abs=60)
    hourly = scheduler.schedule(tasks.increment, 1, every="hourly", name="soon", at_once=False)
    until(lambda: [one for one in scheduler.schedules() if one.machine_id == hourly.machine_id and one.call_ids])


def test_a_schedule_is_made_anew_when_its_machine_is_gone_or_going(scheduler, fast_fly):
    made = scheduler.schedule(tasks.increment, 1, every="daily", name="job")
    scheduler._client.machines.destroy(made.machine_id, force=True)
    anew = scheduler.schedule(tasks.increment, 1, every="daily", name="job")
    assert anew.machine_id != made.machine_id
    assert [one.machine_id for one in scheduler.schedules()] == [anew.machine_id]


def test_a_schedule_whose_machine_does_not_come_to_its_end_is_none(scheduler, monkeypatch):
    made = scheduler.schedule(tasks.increment, 1, every="daily", name="job")
    (there,) = [one for one in scheduler._client.lists.since() if one.id == made.machine_id]

    def refuse(self, *_, **__):
        raise MachinesError("so it is", 409)

    with monkeypatch.context() as hanging:
        hanging.setattr(MachinesClient, "get", lambda *_: None)
        hanging.setattr(MachinesClient, "create", refuse)
        hanging.setattr(MachinesClient, "wait", lambda *_: None)
        hanging.setattr(Lists, "since", lambda *_: [replace(there, state="destroying")])
        with pytest.raises(MachinesError, match=f"{made.machine_id} .* is destroying"):
            scheduler.schedule(tasks.increment, 2, every="daily", name="job")


def test_a_schedule_is_known_by_its_machine_when_redis_has_forgotten_it(scheduler, fast_fly):
    made = scheduler.schedule(tasks.increment, 1, every="daily", name="job")
    other = scheduler.with_options(env={"OTHER": "1"})
    with redis.Redis.from_url(fast_fly.redis_url) as client:
        client.flushall()
    assert other.schedule(tasks.increment, 1, every="daily", name="job").machine_id == made.machine_id
    assert [one.machine_id for one in scheduler.schedules()] == [made.machine_id]


@pytest.mark.parametrize("told", ["its id", "../machines", b"\xff"])
def test_who_writes_into_redis_has_no_other_machine_become_a_schedule(scheduler, fast_fly, told):
    other = scheduler.schedule(tasks.echo, 1, every="daily", name="other")
    version = version_of(scheduler, other)
    made = scheduler.schedule(tasks.increment, 1, every="daily", name="job")
    with redis.Redis.from_url(fast_fly.redis_url) as client:
        (key,) = [key for key in client.keys("*:scheduled:*") if client.get(key) == made.machine_id.encode()]
        client.set(key, other.machine_id if told == "its id" else told)
    assert scheduler.schedule(tasks.increment, 2, every="daily", name="job").machine_id == made.machine_id
    assert version_of(scheduler, other) == version


def test_the_machine_of_a_schedule_is_created_in_its_turn(scheduler, monkeypatch):
    turns = []
    monkeypatch.setattr(Store, "pace_create", lambda _, *pace: turns.append(pace) or 0.0)
    for number in (1, 1, 2):
        scheduler.schedule(tasks.increment, number, every="daily", name="job", at_once=False)
    assert turns == [(launch.CREATE_EVERY, launch.CREATE_BURST)]


def test_who_died_while_others_waited_for_him_holds_up_nobody_for_ever(scheduler, fast_fly, monkeypatch):
    made = scheduler.schedule(tasks.increment, 1, every="daily", name="job")
    monkeypatch.setattr("flyexecutor.store.lanes.LOCK_PATIENCE", 0.1)
    with redis.Redis.from_url(fast_fly.redis_url) as client:
        (key,) = client.keys("*:scheduled:*")
        client.set(key.replace(b":scheduled:", b":lock:"), "dead")
        assert scheduler.schedule(tasks.increment, 2, every="daily", name="job").machine_id == made.machine_id
        assert client.get(key.replace(b":scheduled:", b":lock:")) == b"dead"


def test_a_schedule_of_which_the_image_is_still_fetched_is_replaced_once_it_is_there():
    with LocalFly(rate_limits=False, image=0.5) as fly, FlyMachineExecutor(local=fly) as executor:
        made = executor.schedule(tasks.increment, 1, every="daily", name="job", at_once=False)
        again = executor.schedule(tasks.increment, 2, every="daily", name="job")
        assert (again.machine_id, again.state) == (made.machine_id, "stopped")


DECLARE = """
import sys
from flyexecutor import FlyMachineExecutor
from tests import tasks

OFFSET = {"text": 1}


def add(number):
    return number + OFFSET["text"]


with FlyMachineExecutor(idle_timeout=0.2) as executor:
    print("ready", flush=True)
    sys.stdin.readline()
    executor.schedule(tasks.increment, 1, every="daily", at_once=False)
    executor.schedule(add, 1, every="daily", at_once=False)
    executor.schedule(lambda: add(1), every="daily", name="lambda", at_once=False)
    other = executor.with_options(env={"VERSION": sys.argv[1]})
    other.schedule(tasks.echo, sys.argv[1], every="daily", name="disputed")
"""


def test_four_processes_that_declare_at_once_leave_one_machine_for_each_schedule():
    def look(executor):
        seen = executor.schedules()
        return {one.name: one.machine_id for one in seen}, {one.name: version_of(executor, one) for one in seen}

    with LocalFly(image=0.1) as fly:  # with Fly's rate limits

        def start_app():
            env = {**os.environ, **fly.environ()}
            command = [sys.executable, "-c", DECLARE]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            processes = [subprocess.Popen([*command, version], env=env, **pipes) for version in "1122"]
            for process in processes:
                assert process.stdout.readline() == "ready\n"
            for process in processes:
                process.stdin.write("\n")
                process.stdin.flush()
            for process in processes:
                process.communicate(timeout=WAIT)
            assert [process.returncode for process in processes] == [0] * 4

        start_app()
        with FlyMachineExecutor(local=fly) as executor:
            first, versions = look(executor)
            start_app()
            again, versions_then = look(executor)
        assert sorted(first) == ["add", "disputed", "increment", "lambda"]
        assert first == again
        assert set(fly.states()) == set(first.values())  # there never were others
        del versions["disputed"], versions_then["disputed"]
        assert versions == versions_then  # in processes that hash texts differently


def test_what_makes_no_sense_is_named(scheduler):
    with pytest.raises(SettingsError, match="every is 'yearly'"):
        scheduler.schedule(tasks.increment, 1, every="yearly")
    for name in ("", 7, "two\nlines", "x" * 101, "half a pair \ud83d"):
        with pytest.raises(SettingsError, match=re.escape(f"name is {name!r}")):
            scheduler.schedule(tasks.increment, 1, every="daily", name=name)
    with pytest.raises(SettingsError, match="a lambda has no name of its own"):
        scheduler.schedule(lambda: None, every="daily")
    with pytest.raises(SettingsError, match="bytes when pickled"):
        scheduler.schedule(tasks.echo, bytes(100_000), every="daily")
