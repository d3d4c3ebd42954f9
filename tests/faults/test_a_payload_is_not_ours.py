"""Tampered, replayed or foreign payloads are refused before they are unpickled; the call fails with PayloadError."""

import pytest
import redis

from flyexecutor import PayloadError
from tests import tasks

WAIT = 30.0


@pytest.fixture
def writer(local_fly):
    """Somebody who can write to Redis, and has no key."""
    with redis.Redis.from_url(local_fly.redis_url) as client:
        yield client


def hold_queue(make_executor, tmp_path):
    """An executor whose only machine is busy, so that its next call stays in Redis for a while."""
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    executor.submit(gate.enter)
    gate.wait_for_entry()
    return executor, gate


def key_of(executor, future, writer):
    executor.flush(WAIT)
    (key,) = writer.keys(f"*:call:{future.id}")
    return key


def test_a_changed_call_is_refused(make_executor, tmp_path, writer):
    executor, gate = hold_queue(make_executor, tmp_path)
    future = executor.submit(tasks.append_line, tmp_path / "ran", "changed")
    key = key_of(executor, future, writer)
    sealed = writer.hget(key, "call")
    writer.hset(key, "call", sealed[:-1] + bytes([sealed[-1] ^ 1]))
    gate.open()
    error = future.exception(WAIT)
    assert isinstance(error, PayloadError)
    assert "does not verify" in str(error)
    assert not (tmp_path / "ran").exists()


def test_a_call_moved_to_another_id_is_refused(make_executor, tmp_path, writer):
    executor, gate = hold_queue(make_executor, tmp_path)
    one = executor.submit(tasks.append_line, tmp_path / "ran", "one")
    two = executor.submit(tasks.increment, 1)
    writer.hset(key_of(executor, two, writer), "call", writer.hget(key_of(executor, one, writer), "call"))
    gate.open()
    assert isinstance(two.exception(WAIT), PayloadError)
    assert one.result(WAIT) is None


def test_a_forged_outcome_is_refused(make_executor, tmp_path, writer):
    executor, gate = hold_queue(make_executor, tmp_path)
    future = executor.submit(tasks.increment, 1)
    key = key_of(executor, future, writer)
    (client,) = writer.hget(key, "watch").decode().split()
    stream = key.split(b":call:")[0] + b":outcomes:" + client.encode()
    head = f"{future.id} SUCCEEDED 1 m - 0 0 0 0"
    writer.xadd(stream, {"head": head, "body": b"cos\nsystem\n(S'true'\ntR."})
    assert isinstance(future.exception(WAIT), PayloadError)
    gate.open()
