"""Connections of a worker fall silent and nobody resets them (a host has gone, a NAT forgot): it notices in seconds."""

import select
import time

import pytest
import redis

from flyexecutor import Kill, RedisUnavailableError
from flyexecutor.store.calls import Store
from tests import tasks
from tests.wire import Wire, detour

WAIT = 30.0
SOON = 8.0  # seconds; the worker's patience is one here
IMPATIENT = """
from flyexecutor.store import lanes as lane_store
from flyexecutor.store import reader
reader.BUSY_BLOCK, reader.LATE, lane_store.ANSWER_TIMEOUT = 0.5, 0.3, 0.5
"""


@pytest.fixture
def wire(local_fly):
    with Wire("127.0.0.1", redis.connection.parse_url(local_fly.redis_url)["port"]) as wire:
        yield wire


@pytest.fixture
def executor(wire, make_executor, local_fly, tmp_path):
    """Only what its machines say goes through the wire."""
    (tmp_path / "sitecustomize.py").write_text(IMPATIENT)
    options = {"redis_url": wire.url(local_fly.redis_url), "env": {"PYTHONPATH": f"{tmp_path}:."}}
    with Wire("127.0.0.1", redis.connection.parse_url(local_fly.redis_url)["port"]) as clients, detour(wire, clients):
        yield make_executor(max_workers=1, concurrency=2, **options)


@pytest.fixture
def gate(tmp_path):
    return tasks.Gate.make(tmp_path)


def test_a_second_call_is_answered_soon_and_the_first_runs_once(executor, wire, gate):
    first = executor.submit(gate.enter)
    gate.wait_for_entry()
    wire.deaf()
    second = executor.submit(tasks.increment, 1)
    assert second.result(SOON) == 2
    gate.open()
    assert first.result(SOON)
    assert first.attempt == 1  # the second may have been handed to who could not hear


def test_a_call_that_runs_can_be_killed(executor, wire, gate):
    future = executor.submit(gate.enter)
    gate.wait_for_entry()
    wire.deaf()
    assert future.kill(SOON) is Kill.KILLED


@pytest.mark.parametrize("new", [False, True], ids=["while it waits", "when it connects"])
def test_a_read_does_not_wait_much_longer_than_it_has_asked_for(wire, redis_url, monkeypatch, new):
    monkeypatch.setattr("flyexecutor.store.reader.CONNECT_TIMEOUT", 1.0)
    reader = Store(wire.url(redis_url), "app").outcomes("client")
    if not new:
        assert list(reader.read(0)) == []
    wire.deaf(new=new)
    with monkeypatch.context() as patched:
        patched.setattr("flyexecutor.store.reader.LATE", 0.1)
        began = time.monotonic()
        with pytest.raises(RedisUnavailableError):
            list(reader.read(0.1))
        assert time.monotonic() - began < 3.0
    wire.heal()
    assert list(reader.read(0)) == []


def test_who_does_not_wait_in_a_read_is_told_that_its_answer_is_overdue(wire, redis_url, monkeypatch):
    monkeypatch.setattr("flyexecutor.store.reader.LATE", 0.5)
    reader = Store(wire.url(redis_url), "app").inbox("machine")
    reader.ask(0.5)
    wire.deaf()
    reader.give_up_if_overdue()
    assert reader.waiting
    assert select.select([reader], [], [], max(0.0, reader.due_at - time.monotonic()))[0] == []
    with pytest.raises(RedisUnavailableError, match="no answer in time"):
        reader.give_up_if_overdue()
    assert not reader.waiting
