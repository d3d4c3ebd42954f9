"""Redis is down, restarted or emptied: nothing that is claimed is lost, nothing hangs, and the reason is told."""

import os

import pytest
import redis

from flyexecutor import CallForgottenError, RedisUnavailableError
from tests import tasks

WAIT = 60.0


@pytest.fixture
def admin(local_fly):
    with redis.Redis.from_url(local_fly.redis_url) as client:
        yield client


def test_an_emptied_redis_ends_pending_futures_with_an_error(make_executor, tmp_path, admin, monkeypatch):
    monkeypatch.setattr("flyexecutor.watcher.READ_FOR", 0.2)
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    future = executor.submit(gate.enter)
    gate.wait_for_entry()
    admin.flushall()
    error = future.exception(WAIT)
    assert isinstance(error, CallForgottenError)
    assert "emptied" in str(error)
    gate.open()


def test_worker_and_client_go_on_after_an_emptied_redis(make_executor, admin):
    executor = make_executor(max_workers=1, idle_timeout=5.0)
    worker = executor.submit(os.getppid).result(WAIT)
    admin.flushall()
    again = executor.submit(os.getppid)
    assert (again.result(WAIT), again.attempt) == (worker, 1)  # not a new process in the same machine


def test_every_connection_cut_loses_no_call(make_executor, tmp_path, admin):
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    future = executor.submit(gate.enter)
    gate.wait_for_entry()
    admin.client_kill_filter(_type="normal", skipme=True)
    gate.open()
    assert future.result(WAIT)
    assert future.attempt == 1
    assert list(executor.map(tasks.increment, range(20))) == list(range(1, 21))


def test_a_worker_keeps_its_outcome_while_redis_refuses_it(make_executor, tmp_path, admin):
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    future = executor.submit(gate.enter)
    gate.wait_for_entry()
    admin.config_resetstat()
    admin.execute_command("ACL SETUSER default -evalsha -eval")
    try:
        gate.open()
        while not admin.info("errorstats").get("errorstat_NOPERM"):  # until somebody was refused
            pass
    finally:
        admin.execute_command("ACL SETUSER default +evalsha +eval")
    assert future.result(WAIT)
    assert future.attempt == 1


def test_a_redis_that_refuses_writes_is_told_by_flush(make_executor, admin):
    executor = make_executor()
    admin.config_set("maxmemory", "1")
    try:
        future = executor.submit(tasks.increment, 1)
        with pytest.raises(RedisUnavailableError, match=r"refused the request.*maxmemory"):
            executor.flush(WAIT)
        assert isinstance(future.exception(WAIT), RedisUnavailableError)
    finally:
        admin.config_set("maxmemory", "0")
