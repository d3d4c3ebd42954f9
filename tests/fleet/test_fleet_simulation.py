"""The production policy over hours of virtual time: nothing is lost, nothing runs on, no limit is broken."""

import random

import pytest

from benchmarks._fleet_fly import Times
from benchmarks._fleet_work import Work, default_rules, fan_out, ours, trickle, web_day
from benchmarks.fleet import simulate_fan_out

HARD = Times(deaths=2.0)  # deaths per machine-hour: two hundred times the usual


def burst_hour(seed):
    day = web_day(random.Random(seed))
    noon = [(at - 40_000, seconds) for at, seconds in day.calls if 40_000 <= at < 43_600]
    return Work("an hour of a bursty day", noon, day.max_workers)


def check(work, result, rules, times):
    assert result.lost == 0
    assert len(result.waits) == len(work.calls)
    assert result.running == 0
    # The last may have to boot first, and all be suspended one after the other.
    patience = rules.idle_timeout + times.boot + times.rest + rules.max_workers * rules.suspend_every
    assert result.rested <= patience + 0.1
    assert result.bill.most <= rules.max_workers
    assert len(result.at_end) <= max(rules.warm, work.stock)
    assert result.bill.seconds >= result.useful
    assert result.bill.fly_seconds <= result.bill.seconds


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("max_workers", "warm", "idle_timeout"), [(10, 1, 2.0), (4, 0, 0.0), (40, 10, 0.25)])
def test_a_bursty_hour_with_dying_machines_and_rate_limits(seed, max_workers, warm, idle_timeout):
    work = burst_hour(seed)
    rules = default_rules(max_workers, warm=warm, idle_timeout=idle_timeout)
    result = ours(work, seed, HARD, rules)
    check(work, result, rules, HARD)
    assert result.bill.refused == 0  # lists and creates are paced
    assert result.bill.deaths > 0


@pytest.mark.parametrize("seed", range(3))
def test_a_trickle_with_dying_machines(seed):
    work = trickle(random.Random(seed), 3600.0)
    rules = default_rules()
    check(work, ours(work, seed, HARD, rules), rules, HARD)


@pytest.mark.parametrize("stock", [0, 30, 60])
def test_a_fan_out_with_dying_machines(stock):
    work = fan_out(600, 10.0, 60, stock)
    rules = default_rules(60)
    check(work, ours(work, 7, HARD, rules), rules, HARD)


def test_the_same_seed_gives_the_same_day():
    work = burst_hour(3)
    assert ours(work, 3, HARD) == ours(work, 3, HARD)


def test_a_warm_fan_out_takes_what_resuming_adds():
    assert simulate_fan_out(500, 10.0, 100) == pytest.approx(50.3, abs=0.1)
    assert simulate_fan_out(500, 10.0, 100, resume=1.0, call_cost=0.1) == pytest.approx(51.5, abs=0.1)


def test_a_cold_fan_out_is_paced_by_creates():
    paced = simulate_fan_out(500, 10.0, 100, warm=0)
    assert simulate_fan_out(500, 10.0, 100, warm=0, create_every=0.0) < 60 < paced < 120
