"""Redis is down, restarted or emptied: nothing that is claimed is lost, nothing hangs, and the reason is told."""

import contextlib
import os
import threading
from collections import Counter
from urllib.parse import urlsplit

import pytest
import redis

from flyexecutor import CallForgottenError, FlyMachineExecutor, LocalFly, RedisUnavailableError
from flyexecutor.local.redis import start_server
from flyexecutor.store import outage
from tests import tasks
from tests.wire import Wire

WAIT = 60.0


@pytest.fixture
def admin(local_fly):
    with redis.Redis.from_url(local_fly.redis_url) as client:
        yield client


def test_an_emptied_redis_ends_pending_futures_with_an_error(make_executor, tmp_path, admin, monkeypatch):
    monkeypatch.setattr("flyexecutor.client.watcher.READ_FOR", 0.2)
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


@pytest.fixture
def forget(tmp_path, admin):
    """Have a call run that Redis has forgotten, and submit another. Answers the gate of the first, its machine, and the
    future of the second.
    """

    def empty_redis(executor):
        gate = tasks.Gate.make(tmp_path)
        executor.submit(gate.enter)
        busy = gate.wait_for_entry()
        admin.flushall()
        return gate, busy, executor.submit(tasks.machine_id)

    return empty_redis


def test_a_call_after_redis_was_emptied_does_not_wait_for_the_machine_that_runs_a_forgotten_one(
    make_executor, forget, quick_fleet
):
    gate, busy, again = forget(make_executor(max_workers=2))
    assert again.result(WAIT) != busy
    gate.open()


def test_a_call_after_redis_was_emptied_has_the_only_machine_end_that_runs_a_forgotten_one(
    make_executor, forget, local_fly, until, quick_fleet, monkeypatch
):
    monkeypatch.setattr("flyexecutor.fleet.turns.UNWANTED_FOR", 0.5)
    monkeypatch.setattr("flyexecutor.fleet.launch.REST_PATIENCE", 1.0)
    gate, busy, again = forget(make_executor(max_workers=1))
    until(lambda: local_fly.states()[busy] == "stopping")
    assert not again.done()
    gate.open()
    assert again.result(WAIT)


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


def test_a_redis_that_comes_back_as_it_was_before_has_its_calls_run_again(tmp_path):
    """After a crash it has lost its last second, after a failover what the replica had not, and a backup is older."""
    with LocalFly() as fly, Wire("127.0.0.1", urlsplit(fly.redis_url).port) as wire:
        there = urlsplit(fly.redis_url)
        another = start_server(tmp_path, there.password, 0, None)
        with contextlib.ExitStack() as ends:
            ends.callback(another.process.wait)
            ends.callback(another.process.kill)
            old = ends.enter_context(redis.Redis.from_url(fly.redis_url))
            new = ends.enter_context(redis.Redis("127.0.0.1", another.port, password=there.password))
            url = wire.url(fly.redis_url)
            executor = FlyMachineExecutor(local=fly, redis_url=url, max_workers=1, idle_timeout=30.0)
            gate = tasks.Gate.make(tmp_path)
            runs, waits = executor.submit(gate.enter), executor.submit(os.getppid)
            gate.wait_for_entry()
            executor.flush(WAIT)
            # Without the one that would wait at the gate again.
            for key in set(old.keys("fly:*")) - set(old.keys(f"*:call:{runs.id}")):
                new.restore(key, 0, old.dump(key))
            gate.open()
            worker = waits.result(WAIT)
            wire.lead_to(another.port)
            other = FlyMachineExecutor(local=fly, redis_url=url, max_workers=1)
            assert other.future(waits.id).result(WAIT) == worker
            executor.shutdown()
            other.shutdown()
            fly.close()  # the wire comes last: its machine would connect to it while it ends


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


def test_an_outage_and_its_end_are_told_in_one_sentence_each(
    tmp_path, caplog, machine_output, quick_fleet, monkeypatch
):
    noted, all_have = Counter(), threading.Event()

    def note(address, error):
        real(address, error)
        noted[threading.get_ident()] += 1
        if sum(times > 3 for times in noted.values()) == 5:  # two outboxes, two watchers, the fleet that has machines
            all_have.set()

    real = outage.note
    monkeypatch.setattr(outage, "note", note)
    with LocalFly(rate_limits=False) as fly, Wire("127.0.0.1", urlsplit(fly.redis_url).port) as wire:
        url = wire.url(fly.redis_url)
        executors = [FlyMachineExecutor(local=fly, redis_url=url, max_workers=1, env={"OF": n}) for n in "12"]
        gate = tasks.Gate.make(tmp_path)
        futures = [executors[0].submit(gate.enter)]
        gate.wait_for_entry()
        wire.refuse()
        wire.cut()
        futures += [executor.submit(tasks.increment, 1) for executor in executors]
        assert all_have.wait(WAIT)
        machine_output.wait_for("told once")
        wire.heal()
        gate.open()
        assert futures[0].result(WAIT)
        assert [future.result(WAIT) for future in futures[1:]] == [2, 2]
        for executor in executors:
            executor.shutdown()
        printed = machine_output.text  # before Redis ends
    by_worker = [line for line in printed.splitlines() if "flyexecutor worker: Redis" in line]
    for lines in (caplog.messages, by_worker):
        assert ["told once" in line for line in lines] == [True, False]
        assert "answers again, after" in lines[1]
