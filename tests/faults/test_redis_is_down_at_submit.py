"""Redis down at submit: `submit` returns at once, `flush` and the future tell the reason; nothing blocks."""

import pytest

from flyexecutor import RedisUnavailableError
from tests import tasks

WAIT = 30.0


def test_an_unreachable_redis_is_told_by_the_future_and_by_flush(make_executor, closed_port, monkeypatch):
    monkeypatch.setattr("flyexecutor.client.outbox.FIRST_CONTACT", 1.0)
    executor = make_executor(redis_url=f"redis://:geheim@127.0.0.1:{closed_port}/0")
    future = executor.submit(tasks.increment, 1)
    with pytest.raises(RedisUnavailableError, match=rf"127.0.0.1:{closed_port}.*REDIS_URL") as told:
        executor.flush(0.5)
    assert "geheim" not in str(told.value)
    assert isinstance(future.exception(WAIT), RedisUnavailableError)


def test_a_wrong_redis_password_is_told(make_executor, local_fly, failure_of):
    url = local_fly.redis_url
    executor = make_executor(redis_url=url.replace(url.split(":")[2].split("@")[0], "geheim"))
    error, text = failure_of(executor, ["geheim"])
    assert isinstance(error, RedisUnavailableError)
    assert "REDIS_URL" in text
