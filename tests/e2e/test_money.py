"""What machines cost is measured, and agrees with Fly's own meter; what does nothing costs nothing."""

import os
import time

import pytest
import redis

from flyexecutor import FlyMachineExecutor, LocalFly, Prices, SettingsError
from flyexecutor.fleet.api import MachinesClient
from tests import tasks

WAIT = 30.0


def test_billed_seconds_agree_with_the_meter_of_the_api(make_executor, local_fly, until, states):
    executor = make_executor(idle_timeout=0.3, max_workers=2, warm=1)
    futures = [executor.submit(time.sleep, 1.0) for _ in range(4)]
    machines = {future.machine_id for future in futures if future.result(WAIT) is None}
    until(lambda: states(executor) == ["suspended"])
    stats, billed = executor.stats(), local_fly.billed()
    theirs = sum(billed[machine] for machine in machines)
    assert stats.useful_seconds == pytest.approx(4.0, abs=0.4)
    assert stats.billed_seconds == pytest.approx(theirs, rel=0.25)
    assert (stats.calls, stats.starts >= len(machines)) == (4, True)
    assert stats.billed_over_useful == stats.billed_seconds / stats.useful_seconds
    assert stats.dollars == pytest.approx(stats.billed_seconds * 1.94 / (30 * 86400))
    (kept,) = (m for m in executor.machines() if m.id in machines)
    assert kept.billed_seconds == pytest.approx(billed[kept.id], abs=0.5)
    assert kept.dollars == pytest.approx(kept.billed_seconds * 1.94 / (30 * 86400))


def test_what_machines_send_to_redis_is_billed_too(make_executor):
    executor = make_executor(max_workers=1, prices=Prices(shared_cpu=0.0, transfer=1000.0))
    results = [executor.submit(os.urandom, 300_000), executor.submit(os.urandom, 50_000), executor.submit(abs, 1)]
    assert [len(one.result(WAIT)) for one in results[:2]] + [results[2].result(WAIT)] == [300_000, 50_000, 1]
    stats = executor.stats()
    assert 300_000 < stats.sent_bytes < 352_000
    assert stats.dollars == pytest.approx(stats.sent_bytes * 1000.0 / 1e9)


def test_a_call_tells_what_it_cost(make_executor):
    executor = make_executor(max_workers=1, prices=Prices(shared_cpu=2_592_000.0))  # a dollar a second
    future = executor.submit(time.sleep, 0.5)
    future.result(WAIT)
    assert future.info().dollars == pytest.approx(future.info().run_seconds)
    assert 0.4 < future.info().dollars < 5


def test_a_price_that_is_not_known_is_no_number(make_executor):
    quantum = {"cpu_kind": "quantum"}
    executor = make_executor(guest=quantum)
    assert executor.stats().dollars is None
    with pytest.raises(SettingsError, match="the price of a quantum-1x, 256 MB is not known"):
        make_executor(guest=quantum, max_cost_per_hour=1.0)
    with pytest.raises(SettingsError, match=r"max_cost_per_hour is 0.0001: one shared-cpu-1x costs about \$0.0027"):
        make_executor(max_cost_per_hour=0.0001)


@pytest.mark.parametrize(
    ("guest", "told"),
    [("shared-cpu-3x", "must be one of shared-cpu-1x"), ({"memory_mb": 300}, "multiples of 256"), (5, "guest is 5")],
)
def test_a_guest_that_fly_does_not_have_is_refused(make_executor, guest, told):
    with pytest.raises(SettingsError, match=told):
        make_executor(guest=guest)


@pytest.mark.long
@pytest.mark.timeout(180)
def test_nothing_is_asked_of_redis_or_fly_for_a_minute_once_everything_is_idle(until):
    with (
        LocalFly(rate_limits=False) as fly,
        redis.Redis.from_url(fly.redis_url) as admin,
        FlyMachineExecutor(local=fly, max_workers=3, idle_timeout=0.2, warm=2) as executor,
    ):
        assert list(executor.map(tasks.increment, range(100))) == list(range(1, 101))
        until(lambda: set(fly.states().values()) <= {"suspended", "stopped", "destroyed"})
        until(lambda: not blocked(admin))  # nobody waits for an answer any longer: all threads are parked
        requests, commands = fly.requests(), commands_of(admin)
        time.sleep(60.0)  # the minute that is to be measured
        assert fly.requests() == requests
        assert commands_of(admin) - commands == 1  # the INFO before


def blocked(admin):
    return admin.info("clients")["blocked_clients"]


def commands_of(admin):
    return admin.info("stats")["total_commands_processed"]


def test_the_last_run_of_a_machine_is_what_its_bill_has_grown_by(make_executor, local_fly, until, states):
    executor = make_executor(max_workers=1, idle_timeout=0.2)
    machines = MachinesClient(local_fly.api_url, local_fly.app, local_fly.token)
    bill = 0.0
    for n in range(2):
        assert executor.submit(tasks.increment, n).result(WAIT) == n + 1
        until(lambda: states(executor) == ["suspended"])
        (machine,) = [one for one in machines.list_all(attempts=1) if one.lane == executor._lane.name]
        assert 0 < machine.last_run == pytest.approx(machine.billed_seconds - bill)
        bill = machine.billed_seconds
    machines.close()
