"""What a launcher does with one start or create, with a Machines API and a store that do what the test says."""

import time
from dataclasses import replace

import pytest

from flyexecutor.errors import MachinesError, RedisUnavailableError
from flyexecutor.fleet import policy
from flyexecutor.fleet.launch import Launcher
from flyexecutor.fleet.machine import Machine
from flyexecutor.lane import Lane
from tests.fleet.recorded import Recorded

WAIT = 10.0
FULL = MachinesError("insufficient resources to create new machine", 412)
RESTS = Machine("m1", "m1", "suspended", "iad", "1", "ok", None)


class Launch:
    def __init__(self, monkeypatch, *regions, boot_timeout=60.0):
        monkeypatch.setattr("flyexecutor.fleet.creation.config_of_machine", lambda *_, **__: {})
        made = Machine("new", "n", "created", "iad", "1", "ok", None)
        self.fly = Recorded(assign=[True], is_worker=[False], is_counted_on=[True], create=[made])
        self.told, self.launched, self.raised, self.outdated = [], [], [], []
        self.lane = Lane("lane", {}, regions, 5, 1, boot_timeout)
        self.launcher = Launcher(
            self.fly,
            self.fly,
            self.fly,
            self.lane,
            raised=lambda action, exc: self.raised.append((action, exc)),
            launched=self.launched.append,
            outdated=self.outdated.append,
            troubled=lambda error, passing: self.told.append((error, passing)),
        )

    def wait(self):
        assert self.launcher.settle(WAIT)
        assert not self.busy

    @property
    def busy(self):
        return self.launcher.ledger.busy

    @property
    def avoided(self):
        return self.launcher.ledger.avoided(time.monotonic())

    @property
    def booting(self):
        return [*self.launcher.ledger.in_hand().boots]

    def create_soon(self, reservation="r"):
        self.launcher.ledger.create_soon(policy.Create(reservation, keeper=True))

    def create(self):
        self.create_soon()
        assert self.busy
        self.launcher.create_next(needed=True)
        self.wait()

    def start(self, machine=RESTS):
        told = self.launcher.start(policy.Start("r", machine))
        if told:
            self.wait()
        return told


@pytest.fixture
def make(monkeypatch):
    return lambda *regions, **options: Launch(monkeypatch, *regions, **options)


def regions_asked(one):
    return [told[1] for told in one.fly.of("create")]


def test_regions_without_room_are_followed_by_the_next_in_order(make):
    one = make("iad", "fra", "ams")
    one.fly.answers["create"] = [FULL, FULL, *one.fly.answers["create"]]
    one.create()
    assert (regions_asked(one), len(one.launched), one.told) == (["iad", "fra", "ams"], 1, [])


def test_no_room_in_the_last_region_is_told_and_gives_the_reservation_back(make):
    one = make("iad", "fra")
    one.fly.answers["create"] = [FULL]
    one.create()
    ((error, passing),) = one.told
    assert (error.region, error.phase, error.status, passing) == ("fra", "create", 412, False)
    assert (regions_asked(one), one.fly.of("release"), one.fly.of("assign")) == (["iad", "fra"], [["r"]], [])


def test_another_error_than_want_of_room_is_told_at_once(make):
    one = make("iad", "fra")
    one.fly.answers["create"] = [MachinesError("wrong token", 401)]
    one.create()
    assert (regions_asked(one), one.told[0][0].status) == (["iad"], 401)


def test_a_lane_without_regions_lets_fly_choose(make):
    one = make()
    one.create()
    assert regions_asked(one) == [None]


def test_a_create_whose_reservation_was_lost_while_it_waited_is_none(make):
    one = make()
    one.fly.answers["is_counted_on"] = [False]
    one.create_soon()
    one.launcher.create_next(needed=True)
    assert (one.busy, one.fly.of("create"), one.fly.of("release")) == (False, [], [])


def test_a_create_waits_on_if_redis_is_away_when_its_moment_comes(make):
    one = make()
    one.fly.answers["is_counted_on"] = [RedisUnavailableError("Redis is away"), True]
    one.create_soon()
    with pytest.raises(RedisUnavailableError):
        one.launcher.create_next(needed=True)
    assert one.busy
    one.launcher.create_next(needed=True)
    one.wait()
    assert one.fly.of("create")


def test_a_created_machine_that_has_joined_already_gives_its_reservation_back(make):
    one = make()
    one.fly.answers["assign"] = [False]
    one.create()
    assert (one.fly.of("release"), len(one.launched)) == ([["r"]], 1)
    assert one.launcher.ledger.keep(one.launcher.ledger.in_hand(), frozenset()).boots == {}


def test_a_create_that_raises_what_nobody_expects_has_ended(make):
    one = make()
    one.fly.answers["create"] = [KeyError("?")]
    one.create()
    assert [(action.reservation, type(exc)) for action, exc in one.raised] == [("r", KeyError)]


def test_a_machine_is_started_although_no_thread_can_be_had(make, monkeypatch):
    one = make()
    monkeypatch.setattr("threading.Thread.start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start")))
    assert one.launcher.start(policy.Start("r", RESTS))
    assert [verb for verb, *_ in one.fly.asked] == ["assign", "start"]
    assert not one.busy


def test_a_start_is_assigned_before_it_is_asked_for(make):
    one = make()
    assert one.start()
    assert [verb for verb, *_ in one.fly.asked] == ["assign", "start"]
    assert len(one.launched) == 1


@pytest.mark.parametrize(
    ("state", "keeper", "suspends", "awaited"),
    [
        ("stopped", True, True, []),
        ("stopping", True, True, ["stopped"]),
        ("suspending", True, True, ["suspended"]),
        ("started", True, True, ["suspended"]),
        ("started", True, False, ["stopped"]),
        ("started", False, True, ["stopped"]),
    ],
)
def test_what_is_about_to_rest_is_started_once_it_rests_in_its_own_way(make, state, keeper, suspends, awaited):
    one = make()
    one.launcher.lane = replace(one.launcher.lane, suspends=suspends)
    assert one.start(replace(RESTS, state=state, keeper=keeper))
    assert [told[0] for told in one.fly.of("wait")] == awaited
    assert one.fly.of("start") == [["m1"]]


@pytest.mark.parametrize(("state", "starts"), [("started", []), ("suspending", [["m1"]]), ("stopped", [["m1"]])])
def test_a_machine_that_does_not_come_to_rest_is_avoided_and_another_way_of_rest_is_as_good(make, state, starts):
    one = make()
    one.fly.answers["wait"] = [MachinesError("machine failed to reach desired state", 408)]
    one.fly.answers["get"] = [replace(RESTS, state=state)]
    assert one.start(replace(RESTS, state="started"))
    assert one.fly.of("start") == starts
    assert one.avoided == (frozenset() if starts else {"m1"})
    assert one.fly.of("release") == ([] if starts else [["m1"]])
    assert [passing for _, passing in one.told] == ([] if starts else [True])


def test_a_machine_that_somebody_else_has_is_not_started(make):
    one = make()
    one.fly.answers["assign"] = [False]
    assert not one.start()
    assert (one.fly.of("start"), one.fly.of("release"), one.busy) == ([], [["r"]], False)
    assert one.booting == []


@pytest.mark.parametrize(("status", "passing"), [(404, True), (408, True), (409, True), (412, True), (403, False)])
def test_a_refused_start_gives_the_machine_back(make, status, passing):
    one = make()
    one.fly.answers["start"] = [MachinesError("no", status)]
    assert one.start()
    assert (one.fly.of("release"), one.told[0][1], one.launched) == ([["m1"]], passing, [])
    assert one.avoided == frozenset()


def test_a_machine_whose_host_is_full_is_avoided(make):
    one = make()
    one.fly.answers["start"] = [FULL]
    assert one.start()
    assert one.avoided == {"m1"}


# What is not that far

TOO_SOON = [
    (412, "failed_precondition: unable to start machine from current state: 'created'"),
    (412, "failed_precondition: machine still active, refusing to start"),
    (409, "aborted: machine still attempting to start"),
]


@pytest.mark.parametrize(("status", "text"), TOO_SOON)
def test_a_start_that_comes_too_soon_is_asked_again_without_another_look(make, monkeypatch, status, text):
    monkeypatch.setattr("flyexecutor.fleet.launch.TOO_SOON_PAUSES", (0.0, 0.0, 0.0))
    one = make()
    one.fly.answers["start"] = [MachinesError(text, status)] * 3 + [None]
    assert one.start()
    assert (len(one.fly.of("start")), len(one.launched), one.told, one.fly.of("release")) == (4, 1, [], [])


def test_a_machine_that_is_never_that_far_is_avoided(make, monkeypatch):
    monkeypatch.setattr("flyexecutor.fleet.launch.TOO_SOON_PAUSES", (0.0, 0.0))
    one = make()
    one.fly.answers["start"] = [MachinesError(TOO_SOON[0][1], 412)]
    assert one.start()
    assert (one.fly.of("start"), one.told[0][1], one.fly.of("release")) == ([["m1"]] * 3, True, [["m1"]])
    assert one.avoided == {"m1"}


def test_who_closes_does_not_wait_until_a_machine_is_that_far(make, monkeypatch):
    monkeypatch.setattr("flyexecutor.fleet.launch.TOO_SOON_PAUSES", (3600.0,))
    one = make()
    one.fly.answers["start"] = [MachinesError(TOO_SOON[0][1], 412)]
    assert one.launcher.start(policy.Start("r", RESTS))
    one.launcher.close()
    one.wait()
    assert one.fly.of("release") == [["m1"]]


# A create whose answer was lost


@pytest.mark.parametrize("status", [None, 500, 503])
def test_a_create_that_may_have_been_carried_out_is_looked_for_by_its_name(make, status):
    one, made = make(), replace(RESTS, id="made", name="fx-lane-r", lane="lane")
    one.fly.answers["create"] = [MachinesError("broken", status)]
    one.fly.answers["since"] = [[replace(made, id="m0", lane="other"), replace(made, id="m2", name="n"), made]]
    one.create()
    assert (one.fly.of("assign"), one.told) == ([["r", "made"]], [])


@pytest.mark.parametrize(("status", "looks"), [(500, True), (None, True), (422, False), (409, False), (429, False)])
def test_a_create_that_was_not_made_is_told_and_looked_for_only_if_it_may_have_been(make, status, looks):
    one = make()
    one.fly.answers["create"] = [MachinesError("because", status)]
    one.fly.answers["since"] = [[RESTS]]
    one.create()
    ((error, _),) = one.told
    assert ("because" in str(error), error.status, bool(one.fly.of("since"))) == (True, status, looks)


# Machines that are said to rest

LEAVES = Machine("m1", "m1", "started", "iad", "1", "ok", None, "lane", keeper=True)
GONE = MachinesError("machine not found", 404)
STOPS = MachinesError("failed_precondition: machine still active", 412)


def wake(one):
    (action,) = one.launcher.expect(["m1"])
    assert (one.busy, one.booting) == (True, ["m1"])
    one.launcher.wake(action)
    one.wait()


@pytest.mark.parametrize("before", ["suspended", "stopped", "suspending", ""])
def test_a_machine_that_rests_is_started_without_a_look_or_another_word_to_redis(make, before):
    one = make()
    one.fly.answers["start"] = [before]
    wake(one)
    assert [verb for verb, *_ in one.fly.asked] == ["start"]
    assert (len(one.launched), one.booting) == (1, ["m1"])


@pytest.mark.parametrize("first", ["started", STOPS])
def test_one_that_has_not_come_to_rest_is_started_once_it_rests(make, first):
    one = make()
    one.fly.answers |= {"start": [first, "suspended"], "get": [LEAVES]}
    wake(one)
    assert [verb for verb, *_ in one.fly.asked] == ["start", "get", "wait", "start"]
    assert (one.told, one.outdated, len(one.launched), one.booting) == ([], [], 1, ["m1"])


def test_one_that_rests_by_the_time_that_somebody_looks_is_started(make):
    one = make()
    one.fly.answers |= {"start": [STOPS, "stopped"], "get": [replace(LEAVES, state="stopped")]}
    wake(one)
    assert [verb for verb, *_ in one.fly.asked] == ["start", "get", "start"]
    assert len(one.launched) == 1


def test_one_that_works_again_while_its_rest_is_awaited_has_been_started(make):
    one = make()
    awake = MachinesError("deadline_exceeded", 408)
    one.fly.answers |= {"start": ["started"], "get": [LEAVES], "wait": [awake], "is_worker": [True]}
    wake(one)
    assert (one.fly.of("release"), one.outdated, one.avoided, len(one.launched)) == ([], [], frozenset(), 1)


@pytest.mark.parametrize(
    "answers",
    [
        {"start": [GONE], "get": [None]},
        {"start": [GONE], "get": [replace(LEAVES, lane="another")]},
        {"start": [STOPS], "get": [replace(LEAVES, state="destroyed")]},
        {"start": ["started", GONE], "get": [replace(LEAVES, state="suspended")]},
        {"start": ["started"], "get": [LEAVES], "wait": [MachinesError("deadline_exceeded", 408)]},
    ],
    ids=["gone", "changed", "destroyed", "gone meanwhile", "does not rest"],
)
def test_one_that_can_not_be_started_is_counted_on_no_longer_and_no_trouble_but_another_is_needed(make, answers):
    one = make()
    one.fly.answers |= answers
    wake(one)
    assert (one.fly.of("release"), one.booting, one.launched) == ([["m1"]], [], [])
    assert (one.told, len(one.outdated)) == ([], 1)


def test_one_for_which_there_is_no_room_is_avoided_and_another_is_needed(make):
    one = make()
    one.fly.answers["start"] = [FULL]
    wake(one)
    assert ([verb for verb, *_ in one.fly.asked], one.told, one.outdated) == (["start", "release"], [], [FULL])
    assert (one.avoided, one.booting) == ({"m1"}, [])


def test_what_would_be_refused_to_others_too_is_trouble(make):
    one = make()
    one.fly.answers["start"] = [MachinesError("wrong token", 401)]
    wake(one)
    ((error, passing),) = one.told
    assert (error.status, passing, one.outdated, one.fly.of("release")) == (401, False, [], [["m1"]])


def test_a_wake_that_raises_what_nobody_expects_has_ended_and_a_look_tells_what_came_of_it(make):
    one = make()
    one.fly.answers["start"] = [KeyError("?")]
    wake(one)
    assert [(action, type(exc)) for action, exc in one.raised] == [(policy.Wake("m1"), KeyError)]
    assert one.booting == ["m1"]
