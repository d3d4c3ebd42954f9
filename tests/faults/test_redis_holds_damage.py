"""What somebody, or a bug, has damaged in Redis costs what is damaged: other calls run, nothing hangs, it is told."""

import pytest

from flyexecutor import PayloadError
from flyexecutor.client import watcher
from tests import tasks
from tests.faults.test_a_payload_is_not_ours import WAIT, hold_queue, key_of


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", "nonsense"),
        ("attempt", "5000000000"),
        ("attempt", "9" * 400),
        ("pieces", "x:60000000"),
        ("expires", b"\xff"),
    ],
)
def test_a_call_whose_record_is_damaged_ends_and_says_so(make_executor, local_redis, tmp_path, field, value):
    executor, gate = hold_queue(make_executor, tmp_path)
    damaged = executor.submit(tasks.append_line, tmp_path / "ran", "damaged")
    innocent = executor.submit(tasks.increment, 1)
    local_redis.hset(key_of(executor, damaged, local_redis), field, value)
    gate.open()
    with pytest.raises(PayloadError, match=f"damaged: its {field} is"):
        damaged.result(WAIT)
    assert innocent.result(WAIT) == 2
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "kind", ["queue", "claims", "places", "resting", "workers", "starts", "load", "meter", "awake", "due"]
)
@pytest.mark.parametrize("damage", ["removed", "another type"])
def test_a_key_of_a_lane_that_is_damaged_loses_no_call(make_executor, local_redis, tmp_path, monkeypatch, kind, damage):
    monkeypatch.setattr(watcher, "READ_FOR", 0.2)
    executor, gate = hold_queue(make_executor, tmp_path)
    futures = [executor.submit(tasks.increment, n) for n in range(3)]
    lane = local_redis.hget(key_of(executor, futures[0], local_redis), "lane")
    (key,) = local_redis.keys(f"*:queue:{lane}")
    key = key.replace(":queue:", f":{kind}:")
    local_redis.delete(key)
    if damage != "removed":
        local_redis.set(key, "damaged")
    gate.open()
    assert [future.result(WAIT) for future in futures] == [1, 2, 3]


def test_what_is_no_call_keeps_no_call_from_running(make_executor, local_redis, tmp_path):
    executor, gate = hold_queue(make_executor, tmp_path)
    future = executor.submit(tasks.increment, 1)
    key = key_of(executor, future, local_redis)
    queue = f"{key.split(':call:')[0]}:queue:{local_redis.hget(key, 'lane')}"
    for member in (b"\xff", "nowhere", "a b", "x" * 1_000_000):
        local_redis.zadd(queue, {member: float("-inf")})
    gate.open()
    assert future.result(WAIT) == 2
    assert executor.submit(tasks.increment, 2).result(WAIT) == 3
