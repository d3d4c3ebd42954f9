"""The real fleet and the simulated one, each on a model of Redis and Fly: they ask for the same in the same moments.

So what the simulation says of days holds for the package, and a break of what both share is a break of both.
"""

import random
from dataclasses import replace

import pytest

from benchmarks._fleet_fly import SimulatedFly, Times
from benchmarks._fleet_ours import LIST_BURST, LIST_EVERY
from benchmarks._fleet_work import Work, default_rules, fan_out, ours, run_with, web_day
from flyexecutor.fleet import policy
from flyexecutor.fleet.fleet import Fleet
from flyexecutor.fleet.machine import FAMILY_KEY, OWNER_KEY
from flyexecutor.fleet.turns import Turns
from flyexecutor.lane import Lane
from flyexecutor.store.calls import Store
from tests.fleet.virtual import VirtualThreads


class ModelOfRedis:
    """The simulated lane, with the verbs of `Store` that a fleet uses."""

    address = "the model"

    def __init__(self, clock, lane):
        self._clock = clock
        self._lane = lane
        self._locked_until = {}

    def look(self, lane, name, held):
        return replace(self._lane.look(name, held), at=self._clock.now * 1000)

    def try_lock(self, name, owner, seconds):
        if name.startswith("retire") or self._clock.now < self._locked_until.get(name, 0.0):
            return False
        self._locked_until[name] = self._clock.now + seconds
        return True

    def assign(self, lane, reservation, machine_id, *, reserved=False):
        return self._lane.assign(reservation, machine_id, reserved=reserved)

    def release(self, lane, name):
        self._lane.release(name)

    def pace_create(self, every, burst):
        return self._lane.pace_create(self._lane.rules.create_every, burst)

    def is_counted_on(self, lane, name):
        return self._lane.is_counted_on(name)

    def is_worker(self, lane, machine_id):
        return machine_id in self._lane.workers

    def has_workers(self, lane):
        return bool(self._lane.workers)

    def bury(self, lane, machine_id, joined, reason, *, oom):
        return self._lane.bury(machine_id, joined)


class ModelOfFly:
    """The simulated Fly, with the verbs of `MachinesClient` and `Lists`."""

    def __init__(self, threads, lane, fly):
        self._threads = threads
        self._lane = lane
        self._fly = fly
        self.get, self.start, self.stop = fly.get, fly.start, fly.stop

    def since(self, moment):
        if wait := self._lane.pace_list(LIST_EVERY, LIST_BURST):
            self._threads.sleep(wait)
        return self._fly.list()

    def create(self, name, config, region, lane, *, launch):
        return self._fly.get(self._fly.create(keeper=config["keeper"]))

    def wait(self, machine, state, timeout):
        while (seen := self._fly.get(machine.id)) and seen.state in policy.LEAVING:
            self._threads.sleep(0.05)


def real_fleet(monkeypatch):
    """Makes the real fleet, where the simulation would make its own."""

    def make(clock, rng, redis, fly, *, busy_since):
        threads, rules = VirtualThreads(clock), redis.rules
        threads.patch(monkeypatch)
        model = ModelOfFly(threads, redis, fly)
        config = {"metadata": {FAMILY_KEY: "f", OWNER_KEY: "o"}}
        lane = Lane("", config, (), rules.max_workers, 1, rules.boot_timeout, warm=rules.warm)
        fleet = Fleet(
            ModelOfRedis(clock, redis),
            model,
            model,
            lane,
            client="sim",
            known=lambda: (),
            busy_since=busy_since,
            is_vouched=lambda *_: True,
            failed=lambda *_: redis.fail(),
        )
        threads.start(fleet.run)
        return fleet

    return make


@pytest.fixture
def requests(monkeypatch):
    """What Fly is asked for, and when."""
    asked = []

    def record(verb):
        works = getattr(SimulatedFly, verb)

        def ask(self, *told, **more):
            asked.append((self._clock.now, verb, *told, *more.values()))
            return works(self, *told, **more)

        monkeypatch.setattr(SimulatedFly, verb, ask)

    for verb in ("list", "create", "start", "stop"):
        record(verb)
    monkeypatch.setattr("flyexecutor.fleet.creation.config_of_machine", lambda _, *, keeper, **__: {"keeper": keeper})
    return asked


def in_both(monkeypatch, requests, work, seed, times, rules):
    """How each did, and what it asked for."""
    answers = []
    for run in (
        lambda: ours(work, seed, times, rules),
        lambda: run_with(real_fleet(monkeypatch), work, seed, times, rules),
    ):
        requests.clear()
        result = run()
        answers.append((replace(result, events=0), list(requests)))
    return answers


HARD = Times(deaths=2.0)


def burst(seed, minutes=20):
    day = web_day(random.Random(seed))
    noon = [(at - 40_000, seconds) for at, seconds in day.calls if 40_000 <= at < 40_000 + 60 * minutes]
    return Work("a part of a bursty day", noon, day.max_workers)


WORKS = [
    (burst(1), default_rules(10), HARD),
    (burst(2), default_rules(4, warm=0, idle_timeout=0.0), HARD),
    (burst(3), default_rules(40, warm=10, idle_timeout=0.25), Times(deaths=6.0)),
    (fan_out(200, 10.0, 40, 20), default_rules(40), HARD),
    (fan_out(40, 10.0, 10, 0), default_rules(10), Times(boot=70.0)),  # longer than boot_timeout: all are given up
]


@pytest.mark.parametrize(("work", "rules", "times"), WORKS, ids=["burst", "no warm", "deaths", "fan-out", "slow boots"])
def test_the_real_fleet_and_the_simulated_one_ask_for_the_same_in_the_same_moments(
    monkeypatch, requests, work, rules, times
):
    (simulated, asked), (real, really_asked) = in_both(monkeypatch, requests, work, 7, times, rules)
    assert really_asked == asked
    assert real == simulated
    assert simulated.bill.refused == 0
    assert asked


def test_a_break_of_what_they_share_breaks_both(monkeypatch, requests):
    monkeypatch.setattr(Turns, "plan", lambda *_, **__: [])
    work = fan_out(1, 1.0, 1, 1)
    (simulated, asked), (real, really_asked) = in_both(monkeypatch, requests, work, 7, HARD, default_rules(1))
    assert (simulated.lost, real.lost) == (1, 1)
    assert {verb for _, verb, *_ in asked + really_asked} == {"list"}


def test_the_models_have_no_verb_that_the_real_ones_lack():
    for verb in (name for name in vars(ModelOfRedis) if not name.startswith("_") and name != "address"):
        assert callable(getattr(Store, verb))
