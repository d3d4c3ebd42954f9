"""The fleet's thread, on a real Redis and with a Machines API that does what the test says."""

import itertools
import threading
import time
from dataclasses import replace

import pytest

from flyexecutor.call import Call
from flyexecutor.errors import MachinesError, MachineStartError, RedisUnavailableError
from flyexecutor.fleet import policy
from flyexecutor.fleet import turns as module
from flyexecutor.fleet.fleet import Fleet
from flyexecutor.fleet.lists import Lists
from flyexecutor.fleet.machine import FAMILY_KEY, OWNER_KEY, Exit, Machine
from flyexecutor.lane import Lane
from flyexecutor.payload.trust import Trust

WAIT = 10.0
AWAY = RedisUnavailableError("Redis is away")


class FakeMachines:
    """Machines that rest. Each verb first raises what the test has put into `raises`."""

    def __init__(self, *names):
        told = {"keeper": True, "created_at": 1.0}
        self.there = [Machine(name, name, "suspended", "iad", "1", "ok", None, "lane", **told) for name in names]
        self.fresh = {}  # what a get finds, and no list yet
        self.raises = {}
        self.asked = []
        self.gate = threading.Event()
        self.gate.set()

    def ask(self, verb, *told):
        self.asked.append((verb, *told))
        errors = self.raises.get(verb)
        if errors:
            raise errors.pop(0)
        assert self.gate.wait(WAIT)

    def list_all(self, *, attempts):
        self.ask("list")
        return list(self.there)

    def get(self, machine_id):
        self.ask("get", machine_id)
        return self.fresh.get(machine_id)

    def start(self, machine_id):
        self.ask("start", machine_id)

    def stop(self, machine_id):
        self.ask("stop", machine_id)

    def destroy(self, machine_id):
        self.ask("destroy", machine_id)

    def create(self, name, config, region, lane, *, launch=True):
        self.ask("create", region)
        return Machine("new", name, "created", region or "", "1", "ok", None, "lane")

    def count(self, verb):
        return sum(one[0] == verb for one in self.asked)


def raising(monkeypatch, target, verb, *errors):
    """Let a verb raise these, one after the other, and then work."""
    works, left = getattr(target, verb), list(errors)

    def ask(*args, **kwargs):
        if left:
            raise left.pop(0)
        return works(*args, **kwargs)

    monkeypatch.setattr(target, verb, ask)
    return left


class Run:
    """A fleet with its thread."""

    def __init__(self, store, machines, client="c", **options):
        told = {"max_workers": 50, "concurrency": 1, "boot_timeout": 60.0, "regions": (), **options}
        config = {"metadata": {FAMILY_KEY: "family", OWNER_KEY: "owner"}, "env": {}}
        self.lane = Lane("lane", config, told["regions"], told["max_workers"], 1, told["boot_timeout"])
        self.store, self.machines, self.client, self.needed, self.told = store, machines, client, True, []
        self.fleet = Fleet(
            store,
            machines,
            Lists(store, machines, Trust(b"key", "app")),
            self.lane,
            client=f"{client}.lane",
            known=lambda: ["lane"],
            busy_since=lambda: 0.0 if self.needed else None,
            is_vouched=lambda *_: True,
            failed=lambda _lane, error: self.told.append(error),
        )
        self.thread = threading.Thread(target=self.fleet.run)
        self.thread.start()

    def submit(self, number=1):
        calls = [Call(f"{self.client}{n}", b"sealed", 0, True) for n in range(number)]
        self.fleet.start_soon(
            self.store.enqueue(
                self.lane,
                calls,
                client=self.client,
                result_ttl=60,
                reservation=f"{self.client}.{time.monotonic_ns()}",
            )
        )

    @property
    def starts(self):
        return self.store.look(self.lane, "other").starts


@pytest.fixture
def run(store, monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.02, raising=False)
    monkeypatch.setattr("flyexecutor.fleet.creation.config_of_machine", lambda *_, **__: {})
    runs = []

    def make(*names, machines=None, **options):
        runs.append(Run(store, machines or FakeMachines(*names), **options))
        return runs[-1]

    yield make
    for one in runs:
        one.machines.gate.set()
        one.fleet.close()
        one.thread.join(WAIT)
        assert not one.thread.is_alive()


def test_nothing_under_way_is_settled_and_secure_at_once(run):
    one = run()
    assert one.fleet.settle(0)
    one.fleet.secure(0)


@pytest.mark.parametrize("error", [AWAY, OSError("no idea"), SystemExit(3)], ids=repr)
def test_a_start_whose_assignment_raises_is_tried_again_and_leaves_nothing_under_way(run, monkeypatch, store, error):
    left = raising(monkeypatch, store, "assign", error)
    one = run("m1")
    one.submit()
    one.fleet.secure(WAIT)
    assert one.fleet.settle(WAIT)
    assert (left, one.machines.count("start"), one.starts) == ([], 1, {"m1"})


@pytest.mark.parametrize("error", [AWAY, OSError("no idea"), SystemExit(3)], ids=repr)
def test_whatever_a_launch_thread_raises_leaves_nothing_under_way(run, error):
    one = run()
    one.machines.raises["create"] = [error]
    one.submit()
    one.fleet.secure(WAIT)  # the reservation is still ours
    assert one.fleet.settle(WAIT)


def test_a_create_for_calls_that_have_ended_and_can_not_be_given_back_leaves_nothing_under_way(run, monkeypatch, store):
    left = raising(monkeypatch, store, "release", AWAY)
    one = run()
    one.needed = False
    one.submit()
    assert one.fleet.settle(WAIT)
    assert (left, one.machines.count("create")) == ([], 0)
    one.fleet.secure(WAIT)  # nobody waits for it


@pytest.mark.parametrize("error", [AWAY, OSError("no idea")], ids=repr)
def test_what_is_owed_survives_looks_that_fail(run, monkeypatch, store, error):
    left = raising(monkeypatch, store, "look", error, error, error)
    one = run("m1")
    one.submit()
    one.fleet.secure(3.0)
    assert (left, one.machines.count("start")) == ([], 1)


def test_a_look_that_fails_is_not_repeated_without_a_pause(run, monkeypatch, store):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.1)
    left = raising(monkeypatch, store, "look", *[AWAY] * 1000)
    one = run("m1")
    one.submit()
    with pytest.raises(MachineStartError, match=r"the calls are stored.*Redis is away"):
        one.fleet.secure(0.5)
    assert len(left) >= 996


BROKEN = [MemoryError(), RecursionError(), SystemExit(3), KeyboardInterrupt(), OSError("no idea")]


@pytest.mark.parametrize("error", BROKEN, ids=repr)
def test_a_fault_in_front_of_each_look_is_paced_and_ends_no_thread(run, monkeypatch, until, error):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.1)
    one = run("m1")
    raised = []

    def park(*_):
        raised.append(time.monotonic())
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(one.fleet._turns, "park", park)
        one.fleet.tend()
        until(lambda: len(raised) > 3)
    assert min(after - before for before, after in itertools.pairwise(raised)) > 0.05
    one.submit()
    one.fleet.secure(WAIT)
    assert one.machines.count("start") == 1


@pytest.mark.parametrize("error", BROKEN, ids=repr)
@pytest.mark.parametrize("verb", ["list", "get", "start", "stop", "destroy", "create"])
def test_whatever_a_request_raises_costs_that_request(run, monkeypatch, store, until, verb, error):
    monkeypatch.setattr(module, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(policy, "OVERDUE", 0.0)
    monkeypatch.setattr(module, "UNWANTED_FOR", 0.0)
    one = run(*(["m1"] if verb != "create" else []))
    one.machines.there += [of_before("old1"), of_before("old2"), replace(FOR_NOBODY, id="m0", created_at=1.0)]
    one.machines.raises[verb] = [error] * (1 if verb == "destroy" else 2)
    store.join("lane", "gone", first=True)  # a worker that no list has
    one.submit(3)
    until(lambda: not one.machines.raises[verb])
    until(lambda: one.fleet.settle(0))
    assert one.thread.is_alive()
    one.machines.there = []
    until(lambda: one.machines.count("create") > 1)
    one.needed = False
    until(lambda: not one.fleet._turns.pace.woken)


def test_what_a_lost_answer_of_a_look_has_granted_is_started_soon(run, monkeypatch, store):
    look, lost = store.look, []

    def lose(*args):
        answer = look(*args)
        if not lost:
            lost.append(answer.reservations)
            raise AWAY
        return answer

    monkeypatch.setattr(store, "look", lose)
    one = run("m1")
    store.enqueue(one.lane, [Call("a", b"sealed")], client="x", result_ttl=60, reservation="x.1")
    store.release(one.lane, "x.1:1")
    one.fleet.tend()
    assert one.thread.is_alive()
    deadline = time.monotonic() + 3
    while not one.machines.count("start"):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert len(lost[0]) == 1


@pytest.mark.parametrize("status", [404, 408, 409, 412])
def test_a_start_that_was_overtaken_leads_to_another_look_and_fails_no_call(run, status):
    one = run("m1", "m2")
    one.machines.raises["start"] = [MachinesError("somebody was faster", status)]
    one.submit()
    one.fleet.secure(3.0)
    assert one.told == []
    assert one.machines.count("list") == 2


def test_a_list_that_fails_is_asked_again_soon(run):
    one = run("m1")
    one.machines.raises["list"] = [MachinesError("broken", 503)] * 2
    one.submit()
    one.fleet.secure(3.0)
    assert one.told == []


def test_what_no_machine_can_be_had_for_is_owed_no_longer(run):
    one = run()
    one.machines.raises["create"] = [MachinesError("wrong token", 401)]
    one.submit()
    one.fleet.secure(None)
    assert ["wrong token" in str(error) for error in one.told] == [True]


def test_trouble_that_can_not_be_told_to_redis_is_told_later(run, monkeypatch, store):
    left = raising(monkeypatch, store, "has_workers", AWAY)
    one = run()
    one.machines.raises["create"] = [MachinesError("wrong token", 401)] * 2
    one.submit()
    one.fleet.secure(None)
    assert left == []


def test_of_fifty_starts_those_that_raise_are_made_up_for(run):
    one = run(*[f"m{n}" for n in range(60)])
    one.machines.raises["start"] = [AWAY, OSError("no idea"), MachinesError("taken", 412), SystemExit(1)] * 2
    one.submit(50)
    one.fleet.secure(WAIT)
    assert one.fleet.settle(WAIT)
    assert one.machines.count("start") >= 50


def test_one_accepted_machine_is_enough_to_be_secure_and_not_to_be_settled(run):
    one = run("m1", "m2")
    one.machines.gate.clear()
    one.submit(2)
    with pytest.raises(MachineStartError, match="Fly has not answered"):
        one.fleet.secure(0.01)
    one.machines.gate.set()
    one.fleet.secure(WAIT)


def test_a_worker_that_is_there_is_enough(run, store):
    one = run("m1")
    store.join("lane", "worker", first=True)
    one.machines.gate.clear()
    one.submit(2)
    one.fleet.secure(0)


def of_before(name):
    """A machine that an earlier deploy has left."""
    told = {"keeper": True, "owner": "owner", "family": "family"}
    return Machine(name, name, "suspended", "iad", "1", "ok", None, "lane before", **told)


@pytest.mark.parametrize("error", [MachinesError("no", status) for status in (403, 404, 429, 500, None)], ids=str)
def test_a_clean_up_that_is_refused_costs_no_call_and_no_other_machine(run, until, error):
    one = run("m1")
    one.machines.there += [of_before("old1"), of_before("old2")]
    one.machines.raises["destroy"] = [error]
    one.submit()
    one.fleet.secure(WAIT)
    until(lambda: ("destroy", "old2") in one.machines.asked)
    assert one.told == []


def test_a_clock_that_is_ahead_destroys_nothing_that_has_just_come_to_rest(run, monkeypatch, until):
    one = run("m1")
    one.machines.there += [replace(of_before("fresh"), changed_at=time.time()), of_before("old")]
    ahead = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: ahead)
    one.submit()
    until(lambda: ("destroy", "old") in one.machines.asked)
    assert ("destroy", "fresh") not in one.machines.asked


@pytest.mark.parametrize("verb", ["try_lock", "lanes_since"])
def test_a_clean_up_during_which_redis_goes_away_costs_no_call(run, monkeypatch, store, until, verb):
    left = raising(monkeypatch, store, verb, AWAY)
    one = run("m1")
    one.submit()
    one.fleet.secure(WAIT)
    until(lambda: not (left or one.fleet._retirement.busy))
    assert (one.told, one.fleet._turns.troubles.obstacle) == ([], None)


def test_a_clean_up_that_takes_long_holds_up_no_create(run, monkeypatch):
    answer = threading.Event()
    one = run()
    one.machines.there = [of_before("old")]
    monkeypatch.setattr(one.machines, "destroy", lambda _: answer.wait(WAIT))
    try:
        one.submit()
        one.fleet.secure(3.0)
    finally:
        answer.set()
    assert one.machines.count("create") == 1


def test_a_fleet_that_is_closed_while_creates_wait_ends_and_secures_nothing(run, monkeypatch, store):
    monkeypatch.setattr(store, "pace_create", lambda *_: 60.0)
    one = run()
    one.submit(3)
    waiting = threading.Timer(0.05, one.fleet.close)
    waiting.start()
    with pytest.raises(MachineStartError):
        one.fleet.secure(WAIT)
    one.thread.join(WAIT)


def create_and_look_again(one, until):
    """A machine is created that no list shows, and after a while the fleet wonders where it is."""
    one.submit()
    one.fleet.secure(WAIT)
    until(lambda: one.machines.count("get"))
    until(lambda: one.machines.count("list") > 3)


@pytest.mark.usefixtures("quick_fleet")
@pytest.mark.parametrize("answer", ["it boots", "no answer"])
def test_a_fresh_machine_that_no_list_shows_yet_is_not_given_up(run, monkeypatch, until, answer):
    monkeypatch.setattr(policy, "OVERDUE", 0.0)
    monkeypatch.setattr(module, "LOOK_EVERY", 0.1)
    one = run()
    if answer == "it boots":
        told = {"lane": "lane", "changed_at": time.time()}
        one.machines.fresh["new"] = Machine("new", "n", "created", "iad", "1", "ok", None, **told)
    else:
        one.machines.raises["get"] = [MachinesError("broken", 503)] * 1000
    create_and_look_again(one, until)
    assert (one.machines.count("create"), one.told) == (1, [])


@pytest.mark.usefixtures("quick_fleet")
def test_a_fresh_machine_that_is_nowhere_is_given_up_for_another(run, monkeypatch, until):
    monkeypatch.setattr(policy, "OVERDUE", 0.0)
    monkeypatch.setattr(module, "LOOK_EVERY", 0.1)
    one = run()
    create_and_look_again(one, until)
    until(lambda: one.machines.count("create") > 1)


def test_a_worker_that_no_list_shows_is_buried_when_its_host_does_not_answer(run, store, until):
    one = run("m1")
    store.join("lane", "lost", first=True)
    one.machines.fresh["lost"] = Machine("lost", "n", "started", "iad", "1", "unreachable", None, "lane")
    one.submit()
    until(lambda: not store.is_worker("lane", "lost"))


def test_machines_that_end_in_order_before_they_join_are_not_started_for_ever(run, monkeypatch, until):
    monkeypatch.setattr(module, "LOOK_EVERY", 0.05)
    one = run("m1", boot_timeout=0.5)
    ends = itertools.count(1)

    def start(machine_id):
        ended = Exit(0, -1, False, next(ends))
        one.machines.there = [replace(one.machines.there[0], state="stopped", exit=ended)]

    monkeypatch.setattr(one.machines, "start", start)
    one.submit()
    until(lambda: one.told)
    assert "ended before its worker joined: exit code 0" in str(one.told[0])
    assert next(ends) > 2  # it was tried again


def at_work(name):
    """A machine that runs, and that Redis has forgotten."""
    return Machine(name, name, "started", "iad", "1", "ok", None, "lane", changed_at=time.time())


def test_while_as_many_as_may_are_awake_reservations_are_given_back_and_calls_wait(run, monkeypatch, store, until):
    monkeypatch.setattr(module, "LOOK_EVERY", 0.05)
    one = run("m1", max_workers=2)
    one.machines.there += [at_work("w1"), at_work("w2")]
    one.submit(5)
    until(lambda: one.machines.count("list") > 5)
    with pytest.raises(MachineStartError, match=r"as many machines as max_workers allows \(2\) are awake"):
        one.fleet.secure(0.01)
    assert (one.told, one.machines.count("start"), one.machines.count("create")) == ([], 0, 0)
    one.machines.there.pop()  # one has ended
    one.fleet.secure(WAIT)
    assert one.machines.count("start") == 1
    store.join("lane", "m1", first=True)
    store.join("lane", "w1", first=True)
    until(lambda: not one.starts)


@pytest.mark.parametrize("taken", [False, True], ids=["in flight", "listed"])
def test_clients_of_an_emptied_redis_have_as_many_as_may_be_and_what_was_in_flight(
    run, monkeypatch, store, until, raw_redis, taken
):
    monkeypatch.setattr(module, "LOOK_EVERY", 0.1)
    answer, made = threading.Event(), []
    one = run(max_workers=2)
    machines = one.machines

    def create(name, *_, **__):
        machine = Machine(name, name, "started", "iad", "1", "ok", None, "lane", changed_at=time.time())
        made.append(machine)
        if len(made) > 1 or taken:
            machines.there.append(machine)
        if len(made) == 1:
            assert answer.wait(WAIT)
        return machine

    monkeypatch.setattr(machines, "create", create)
    one.submit(1)
    until(lambda: made)  # Fly has it, and has not answered
    raw_redis.flushall()
    other = run(machines=machines, client="d", max_workers=2)
    other.submit(5)
    other.fleet.secure(WAIT)
    until(lambda: other.fleet.settle(0))
    answer.set()
    one.fleet.secure(WAIT)
    looked = machines.count("list")
    until(lambda: machines.count("list") > looked + 2)
    assert len(made) == (2 if taken else 3)


def test_reservations_that_redis_has_lost_are_none(run, monkeypatch, store, until):
    look = store.look

    def lose(*told):
        seen = look(*told)
        if seen.starts and not one.machines.count("start"):
            lost.append(seen.starts)
            store._redis.delete(store._key("starts", "lane"))
        return seen

    lost = []
    one = run("m1")
    monkeypatch.setattr(store, "look", lose)
    one.submit()
    until(lambda: len(lost) > 2)
    assert one.machines.count("start") == 0
    monkeypatch.undo()
    one.fleet.secure(WAIT)
    assert one.machines.count("start") == 1


FOR_NOBODY = Machine("m1", "m1", "started", "iad", "1", "ok", None, "lane", keeper=True)  # since 1970


def test_a_machine_that_has_just_left_its_lane_is_not_taken_for_one_that_runs_for_nobody(run, until):
    one = run()
    one.machines.there = [FOR_NOBODY]
    one.submit()
    one.fleet.secure(WAIT)
    one.fleet.change_lane(one.lane)  # it looks again at once
    until(lambda: one.machines.count("list") > 1)
    one.needed = False
    until(lambda: not one.fleet._turns.pace.woken)
    assert one.machines.count("stop") == 0


def test_a_machine_that_runs_for_nobody_look_after_look_is_stopped(run, monkeypatch, until):
    monkeypatch.setattr(module, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(module, "UNWANTED_FOR", 0.2)
    one = run()
    one.machines.there = [FOR_NOBODY]
    one.submit()
    until(lambda: one.machines.count("stop"))


# Closed


def test_a_fleet_that_is_closed_gives_back_what_it_was_granted(run):
    one = run()
    one.machines.gate.clear()  # it looks, and Fly does not answer
    one.submit(3)
    while not one.machines.count("list"):
        pass
    assert len(one.store.look(one.lane, "other").starts) == 3
    one.fleet.close()
    one.machines.gate.set()
    one.thread.join(WAIT)
    assert len(one.store.look(one.lane, "other").reservations) == 3  # the next client has them at once


def test_what_is_granted_after_the_close_is_given_back(run):
    one = run()
    one.fleet.close()
    one.thread.join(WAIT)
    one.submit()
    assert len(one.store.look(one.lane, "other").reservations) == 1


def test_a_closed_fleet_waits_for_the_starts_that_are_under_way(run, monkeypatch):
    one = run("m1")
    asked, answer = threading.Event(), threading.Event()
    monkeypatch.setattr(one.machines, "start", lambda _: asked.set() or answer.wait(WAIT))
    one.submit()
    assert asked.wait(WAIT)
    one.fleet.close()
    one.thread.join(0.05)
    assert one.thread.is_alive()
    answer.set()
    one.thread.join(WAIT)
    assert not one.thread.is_alive()
