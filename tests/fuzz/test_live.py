"""Random damage in the keys of an app while its calls run: innocent calls succeed, no thread dies, nothing hangs.

FUZZ_EXAMPLES=10000 (`make fuzz`) damages so many times.
"""

import os
import random
import threading
from concurrent.futures import wait

import pytest
import redis

from flyexecutor import FlyExecutorError
from flyexecutor.client import watcher
from tests import tasks

TIMES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
ROUND = 100  # times
WAIT = 60.0
LASTING = {"flyexecutor outbox", "flyexecutor watcher", "flyexecutor fleet"}  # of a client's threads, these never end
VALUES = [
    b"",
    b"-1",
    b"1.5",
    b"9" * 400,
    b"5000000000",
    b"nan",
    b"\xff",
    b"x:60000000",
    b"nonsense",
    b"a b",
    b"[" * 9000,
]
# Not the records of the innocent: what is damaged there ends the call, rightly.
STREAMS = [b"inbox", b"outcomes", b"machines"]
OTHERS = [
    b"queue",
    b"claims",
    b"places",
    b"resting",
    b"workers",
    b"starts",
    b"load",
    b"awake",
    b"meter",
    b"due",
    b"creates",
    b"lists",
    b"suspends",
    b"lanes",
    b"sent",
]
FIELDS = ["state", "attempt", "pieces", "call", "raised", "expires", "parts", "watch", "queued", "keep", "ttl"]


class Vandal:
    """Somebody who can write to Redis, and does."""

    def __init__(self, client: "redis.Redis", prefix: bytes, lane: bytes, seed: int) -> None:
        self.redis = client
        self.prefix = prefix
        self.lane = lane
        self.chance = random.Random(seed)

    def damage(self) -> None:
        kind = self.chance.choice(STREAMS + OTHERS)
        found = self.redis.keys(self.prefix + b":" + kind + b"*")
        key = self.chance.choice(found or [self.prefix + b":" + kind + b":" + self.lane])
        value = self.chance.choice(VALUES)
        damage = self.chance.choice([self.put_into, self.put_into, self.replace])
        try:
            damage(key, value)
        except redis.ResponseError:  # another has been faster
            self.redis.unlink(key)

    def put_into(self, key: bytes, value: bytes) -> None:
        """Of the right type, and nothing of ours."""
        name = self.chance.choice([b"\xff", b"x", b"call", b"kill", b"head", b"report", value[:50] or b"y"])
        match self.redis.type(key):
            case b"stream":
                self.redis.xadd(
                    key, {name: value}, "18446744073709551615-18446744073709551615" if value == b"nan" else "*"
                )
            case b"hash":
                fields = [*self.redis.hkeys(key), name]
                self.redis.hset(key, self.chance.choice(fields), value)
            case b"zset":
                self.redis.zadd(key, {value: self.chance.choice([float("-inf"), float("inf"), 1.5, 1e300])})
            case _:
                self.redis.set(key, value)

    def replace(self, key: bytes, value: bytes) -> None:
        """Of another type, or nothing at all."""
        self.redis.unlink(key)
        ways = [
            lambda: self.redis.set(key, value),
            lambda: self.redis.hset(key, "x", value),
            lambda: self.redis.rpush(key, value),
            lambda: self.redis.xadd(key, {"x": value}),
            lambda: self.redis.zadd(key, {value: 1.0}),
            lambda: None,
        ]
        self.chance.choice(ways)()

    def damage_record(self, call_id: str) -> None:
        key = self.prefix + b":call:" + call_id.encode()
        if self.redis.exists(key):
            self.redis.hset(key, self.chance.choice(FIELDS), self.chance.choice(VALUES))


@pytest.mark.timeout(0 if TIMES > 100 else 300)
def test_a_live_app_survives_random_damage(make_executor, local_fly, monkeypatch, tmp_path):
    monkeypatch.setattr(watcher, "READ_FOR", 0.3)
    before = set(threading.enumerate())
    executor = make_executor(max_workers=2)
    first = executor.submit(tasks.increment, 0)
    assert first.result(WAIT) == 1
    threads = {thread for thread in threading.enumerate() if thread.name in LASTING} - before
    assert {thread.name for thread in threads} == LASTING
    with redis.Redis.from_url(local_fly.redis_url) as client:
        (key,) = client.keys(f"*:call:{first.id}")
        vandal = Vandal(client, key.split(b":call:")[0], client.hget(key, "lane"), seed=1)
        for _ in range(max(1, TIMES // ROUND)):
            innocent = [executor.submit(tasks.increment, n) for n in range(10)]
            guilty = [executor.submit(tasks.increment, n) for n in range(5)]
            executor.flush(WAIT)
            for _ in range(ROUND):
                vandal.damage()
                vandal.damage_record(vandal.chance.choice(guilty).id)
            assert not wait(innocent + guilty, WAIT).not_done
            assert [future.result() for future in innocent] == list(range(1, 11))
            for n, future in enumerate(guilty):
                error = future.exception() if not future.cancelled() else None
                assert error is None or isinstance(error, FlyExecutorError)
                assert error or future.cancelled() or future.result() == n + 1
    assert all(thread.is_alive() for thread in threads)
