"""What the stock does with machines, with a Machines API and a store that say what the test wants."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from flyexecutor import Prices
from flyexecutor.errors import MachinesError
from flyexecutor.fleet.guests import PRESETS
from flyexecutor.fleet.machine import Machine
from flyexecutor.fleet.stock import Stock
from flyexecutor.lane import Lane, Stats


def resting(name, **more):
    return Machine(name, name, "suspended", "iad", "1", "ok", None, "lane", owner="us", **more)


class FakeFly:
    """Its machines, and what it answers to a request to destroy one."""

    def __init__(self, *there, refuses=None):
        self.there = there
        self.refuses = refuses or {}
        self.destroyed = []

    def since(self):
        return self.there

    def destroy(self, machine_id, *, force=False):
        if machine_id in self.refuses:
            raise self.refuses[machine_id]
        self.destroyed.append((machine_id, force))


def stock_of(fly):
    store = SimpleNamespace(lanes_since=lambda _: set(), is_counted_on=lambda *_: False, now=time.time)
    return Stock(store, fly, fly, Prices(), ["us"])


@pytest.mark.parametrize("status", [404, 409, 412])
def test_an_orphan_that_somebody_has_started_meanwhile_is_passed_over(status):
    scheduled = resting("m3", schedule="daily"), resting("m4", schedule_name="nightly")
    fly = FakeFly(resting("m1"), resting("m2"), *scheduled, refuses={"m1": MachinesError("it runs", status)})
    assert [machine.id for machine in stock_of(fly).reap(0.0)] == ["m2"]
    assert fly.destroyed == [("m2", False)]


def running(name):
    return Machine(name, name, "started", "iad", "1", "ok", None, "lane", owner="us")  # since 1970


def test_what_runs_for_nobody_is_reaped_by_force_if_it_still_does_after_a_while(monkeypatch):
    fly = FakeFly(running("forgotten"), running("has just left"), running("works again"), resting("rests"))
    stock = stock_of(fly)

    def meanwhile(_):
        fly.there = (running("forgotten"), resting("has just left", changed_at=time.time()), resting("rests"))

    monkeypatch.setattr("flyexecutor.fleet.stock.time.sleep", meanwhile)
    assert {machine.id for machine in stock.reap(60.0)} == {"forgotten", "rests"}
    assert sorted(fly.destroyed) == [("forgotten", True), ("rests", False)]


def test_an_orphan_whose_host_does_not_answer_stays_for_now_and_the_others_go():
    lost = replace(resting("m1"), host_status="unreachable")
    fly = FakeFly(lost, resting("m2"), refuses={"m1": MachinesError("its host is unreachable", 503)})
    assert [machine.id for machine in stock_of(fly).reap(0.0)] == ["m2"]


def test_a_reap_that_may_not_destroy_says_so():
    with pytest.raises(MachinesError, match="read only"):
        stock_of(FakeFly(resting("m1"), refuses={"m1": MachinesError("read only", 403)})).reap(0.0)


@pytest.mark.parametrize(("config", "dollars"), [({"guest": PRESETS["shared-cpu-1x"]}, True), ({}, False)])
def test_what_a_lane_has_cost_is_its_machines_and_what_they_have_sent(config, dollars):
    seen = Stats(1, 2, 3, 4, 5, 6, useful_seconds=7.0, billed_seconds=8.0, sent_bytes=9_000_000_000)
    lane = Lane("lane", config, ("fra",), 1, 1, 60.0)
    prices = Prices(transfer=0.5)
    stock = Stock(SimpleNamespace(meter={"lane": seen}.get), None, None, prices, ["us"])
    cost = 8.0 * (prices.per_second(PRESETS["shared-cpu-1x"], "fra") or 0.0) + 9 * 0.5
    assert stock.stats(lane) == replace(seen, dollars=pytest.approx(cost) if dollars else None)
    assert stock.stats(lane).billed_over_useful == 8.0 / 7.0
