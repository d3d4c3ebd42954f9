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
        self.told, self.launched, self.raised = [], [], []
        self.lane = Lane("lane", {}, regions, 5, 1, boot_timeout)
        self.launcher = Launcher(
            self.fly,
            self.fly,
            self.fly,
            self.lane,
            raised=lambda reservation, exc: self.raised.append((reservation, exc)),
            launched=self.launched.append,
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
        self.launcher.create_next(True)
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
    one.launcher.create_next(True)
    assert (one.busy, one.fly.of("create"), one.fly.of("release")) == (False, [], [])


def test_a_create_waits_on_if_redis_is_away_when_its_moment_comes(make):
    one = make()
    one.fly.answers["is_counted_on"] = [RedisUnavailableError("Redis is away"), True]
    one.create_soon()
    with pytest.raises(RedisUnavailableError):
        one.launcher.create_next(True)
    assert one.busy
    one.launcher.create_next(True)
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
    assert [(reservation, type(exc)) for reservation, exc in one.raised] == [("r", KeyError)]


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
