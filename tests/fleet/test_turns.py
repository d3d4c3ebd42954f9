"""What a fleet makes of its looks, turn after turn. No clock: each test says what time it is."""

import pytest

from flyexecutor.errors import MachinesError, MachineStartError
from flyexecutor.fleet.ledger import Ledger
from flyexecutor.fleet.machine import Machine
from flyexecutor.fleet.policy import Create, GiveUp, Start, Stop
from flyexecutor.fleet.turns import (
    FIRST_CONTACT,
    FIRST_PAUSE,
    LOOK_AT_LEAST_EVERY,
    LOOK_EVERY,
    SAY_EVERY,
    UNWANTED_FOR,
    Pace,
    Troubles,
    Turns,
)
from flyexecutor.lane import Lane
from flyexecutor.store.lanes import LaneLook

LANE = Lane("lane", {}, (), 5, 1, 60.0)
RESTS = Machine("m1", "m1", "suspended", "iad", "1", "ok", None, "lane", keeper=True)
FOR_NOBODY = Machine("m1", "m1", "started", "iad", "1", "ok", None, "lane", keeper=True)


def look(*starts, workers=(), due=None):
    return LaneLook([], dict.fromkeys(workers, "1"), frozenset(starts), due)


class Client:
    """The turns of one client, by the hand of the test."""

    def __init__(self):
        self.turns, self.ledger = Turns("c"), Ledger()

    def hear(self, seen, now=0.0):
        self.turn = self.turns.begin(self.ledger, now)
        return self.turns.hear(self.turn, seen, self.ledger)

    def plan(self, *machines, now, seen=None):
        heard = self.hear(seen or look(), now)
        return self.turns.plan(heard, machines, LANE, self.ledger, now=now, moment=now)


@pytest.fixture
def client():
    return Client()


# What is ours


def test_what_is_owed_and_what_earlier_looks_were_granted_is_ours_and_what_others_have_is_not(client):
    client.turns.start_soon(["c.7:1", "expired"], 0.0)
    heard = client.hear(look("c.look1:2", "c.look0:1", "c.7:1", "d.look1:1", "c.8:1", "m1"))
    assert heard.reservations == ["c.7:1", "c.look0:1", "c.look1:2"]
    assert heard.is_ours_to_see_to


def test_each_look_has_a_name_of_its_own_and_renews_what_is_owed_or_being_created(client):
    client.ledger.create_soon(Create("c.1:1", keeper=True))
    client.turns.start_soon(["c.2:1"], 0.0)
    names = []
    for _ in range(2):
        heard = client.hear(look("c.1:1", "c.2:1"))
        names.append(client.turn.name)
        assert sorted(client.turn.held) == ["c.1:1", "c.2:1"]
    assert names == ["c.look1", "c.look2"]
    assert heard.reservations == ["c.2:1"]  # the other is being created


def test_a_client_with_nothing_to_start_leaves_the_look_to_whoever_looks_for_all(client):
    assert not client.hear(look("d.1:1")).is_ours_to_see_to
    client.ledger.boot("m1", None, 0.0)
    assert client.hear(look("m1")).is_ours_to_see_to
    assert not client.hear(look()).is_ours_to_see_to  # it has joined
    assert client.turns.lock_seconds < LOOK_EVERY  # whoever looks for all may do so again in the next turn


def test_what_was_owed_when_a_turn_began_is_owed_no_longer_and_what_came_later_is(client):
    client.turns.start_soon(["c.1:1"], 0.0)
    seen = look("c.1:1")
    client.hear(seen)
    client.turns.start_soon(["c.2:1"], 0.0)
    client.turns.end(client.turn, seen)
    assert client.turns.owed == {"c.2:1"}


def test_a_create_that_raises_while_a_turn_begins_is_owed_to_the_next(client):
    client.ledger.create_soon(Create("c.1:1", keeper=True))
    client.ledger.take_create(wanted=True)
    client.turns.owed.add("c.1:1")  # its thread has raised, and not ended
    seen = look("c.1:1")
    assert client.hear(seen).reservations == []
    client.ledger.end(Create("c.1:1", keeper=True))
    client.turns.end(client.turn, seen)
    assert client.hear(seen).reservations == ["c.1:1"]
    client.turns.end(client.turn, seen)
    assert client.turns.owed == set()


def test_the_plan_knows_the_limits_of_the_lane_and_what_is_avoided_and_being_asked_for(client):
    asked = look("c.look1:1")
    assert client.plan(RESTS, now=0.0, seen=asked) == [Start("c.look1:1", RESTS)]
    client.ledger.avoid("m1", 0.0)
    assert client.plan(RESTS, now=0.0, seen=asked) == [Create("c.look1:1", keeper=False)]
    assert client.turns.troubles.reached


# For nobody


def test_a_machine_is_stopped_once_each_look_of_a_while_has_found_it_to_run_for_nobody(client):
    first = 1000.0
    assert client.plan(FOR_NOBODY, now=first) == []
    assert client.plan(FOR_NOBODY, now=first + UNWANTED_FOR) == []
    assert client.plan(FOR_NOBODY, now=first + UNWANTED_FOR + 0.1) == [Stop(FOR_NOBODY)]


def test_a_machine_that_was_wanted_in_between_has_its_time_again(client):
    assert client.plan(FOR_NOBODY, now=1000.0) == []
    assert client.plan(FOR_NOBODY, now=1015.0, seen=look(workers=["m1"])) == []
    assert client.plan(FOR_NOBODY, now=1021.0) == []
    assert client.plan(FOR_NOBODY, now=1041.1) == [Stop(FOR_NOBODY)]


# Machines that end


def test_machine_after_machine_that_ends_is_started_again_for_as_long_as_one_may_boot(client):
    passing, fault = GiveUp("m1", None, again=True), GiveUp("m1", None, again=False)
    ends = [(0.0, passing), (59.9, passing), (60.0, passing), (1.0, fault)]
    assert [client.turns.give_up(action, now, 60.0) for now, action in ends] == [True, True, False, False]
    client.hear(look(workers=["m2"]))  # one has joined
    assert client.turns.give_up(passing, 100.0, 60.0)


# When to look


def test_a_fleet_is_parked_when_nothing_is_needed_and_not_while_it_owes_something(client):
    turns, asked = client.turns, []

    def needed():
        asked.append(1)

    assert not turns.park(Ledger(), needed)  # it was never woken
    turns.start_soon(["c.1:1"], 10.0)
    assert not turns.park(Ledger(), needed)
    assert asked == []
    turns.owed.clear()
    assert not turns.park(Ledger(), lambda: 1.0)
    assert turns.pace.due(None) == 10.0
    assert turns.park(Ledger(), needed)
    assert (turns.pace.due(None), turns.pace.due(99.0), turns.pace.is_due(99.0)) == (None, 99.0, False)
    turns.start_soon([], 20.0)
    assert turns.pace.due(None) == 20.0  # nobody has looked yet


def test_a_fleet_that_is_parked_forgets_its_troubles(client):
    turns = client.turns
    turns.start_soon([], 0.0)
    turns.meet(MachinesError("broken", 503), 0.0, 60.0, passing=False)
    turns.give_up(GiveUp("m1", None, again=True), 0.0, 60.0)
    turns.park(Ledger(), lambda: None)
    assert turns.troubles.obstacle is None
    assert turns.meet(MachinesError("broken", 503), 1000.0, 60.0, passing=False)
    assert turns.give_up(GiveUp("m1", None, again=True), 1000.0, 60.0)
    assert turns.pace.look_at == 1000.0 + FIRST_PAUSE


def test_looks_follow_in_their_time_and_a_create_or_a_retry_may_be_due_before(client):
    client.turns.start_soon([], 100.0)
    seen = look(due=2.0)
    client.hear(seen, 100.0)
    pace = client.turns.pace
    assert (pace.look_at, pace.due(101.0), pace.due(999.0)) == (100.0 + LOOK_EVERY, 101.0, 100.0 + LOOK_EVERY)
    client.turns.end(client.turn, seen)
    assert pace.look_at == 102.0
    client.turns.end(client.turn, look(due=60.0))
    assert pace.look_at == 102.0
    assert [pace.is_due(now) for now in (101.9, 102.0)] == [False, True]


def test_pauses_after_trouble_double_and_a_machine_ends_them():
    pace, now, pauses = Pace(), 100.0, []
    for _ in range(6):
        pace.begin(now)
        pauses.append(pace.look_soon(now) - now)
        now = pace.look_at
    assert pauses == [0.5, 1.0, 2.0, 4.0, LOOK_EVERY, LOOK_EVERY]
    pace.calm()
    pace.begin(now)
    assert pace.look_soon(now) == now + FIRST_PAUSE


def test_many_troubles_of_a_moment_are_one_pause():
    pace = Pace()
    pace.begin(100.0)
    assert [pace.look_soon(100.0) for _ in range(3)] == [100.5, 101.0, 101.0]
    assert pace.look_at == 100.5  # the first is soon enough


# How long to wait


BROKEN, REFUSED, AWAY = MachinesError("broken", 503), MachinesError("wrong token", 401), MachinesError("no answer")
FULL = MachinesError("insufficient resources to create new machine", 412)
BOOT = MachineStartError("it ended", 503, phase="boot")
CREATE = MachineStartError("not created", 503, phase="create")


@pytest.mark.parametrize(
    ("error", "passing", "reached", "patience"),
    [
        (BROKEN, False, False, 60.0),  # it has answered
        (AWAY, False, False, FIRST_CONTACT),
        (AWAY, False, True, 60.0),
        (FULL, False, False, 60.0),
        (REFUSED, False, True, 0.0),
        (REFUSED, True, True, 60.0),
        (BOOT, False, True, 0.0),
        (BOOT, True, True, 60.0),
        (CREATE, False, True, 60.0),
    ],
)
def test_calls_wait_for_trouble_to_pass_according_to_what_it_is(error, passing, reached, patience):
    troubles = Troubles()
    troubles.reached = reached
    first = 10.0
    if patience:
        assert troubles.may_pass(error, first, 60.0, passing=passing)
        assert troubles.may_pass(error, first + patience - 0.1, 60.0, passing=passing)
    assert not troubles.may_pass(error, first + patience, 60.0, passing=passing)
    assert troubles.obstacle is error
    troubles.tell()  # calls have failed: those that come have their time
    assert troubles.may_pass(error, first + patience, 60.0, passing=passing) is bool(patience)


def test_a_machine_ends_the_trouble():
    troubles = Troubles()
    assert troubles.may_pass(BROKEN, 0.0, 60.0, passing=False)
    troubles.end()
    assert troubles.may_pass(BROKEN, 60.0, 60.0, passing=False)


# When calls have what they need without a look


def test_a_look_renews_the_machines_that_are_on_their_way(client):
    client.ledger.boot("m1", None, 0.0, seen=False)
    client.hear(look("m1"))
    assert client.turn.held == ["m1"]


def test_calls_that_have_what_they_need_are_looked_after_only_if_they_last_but_now_and_then_all_the_same():
    pace = Pace()
    pace.wake(1000.0, at_once=False)
    assert pace.look_at == 1000.0  # nobody has ever looked
    pace.begin(1000.0)
    for now in (1100.0, 1000.0 + LOOK_AT_LEAST_EVERY - 1):
        pace.woken = False
        pace.wake(now, at_once=False)
        assert (pace.woken, pace.look_at) == (True, now + LOOK_EVERY)
        pace.wake(now + 1, at_once=True)  # it is awake already
        assert pace.look_at == now + LOOK_EVERY
    pace.woken = False
    pace.look_at = 0.0
    pace.wake(1000.0 + LOOK_AT_LEAST_EVERY, at_once=False)
    assert pace.look_at == 1000.0 + LOOK_AT_LEAST_EVERY


def test_calls_that_lack_something_are_looked_after_at_once_but_not_before_a_pause_has_ended():
    pace = Pace()
    pace.begin(1000.0)
    pace.wake(1100.0, at_once=True)
    assert pace.look_at == 1100.0
    pace.woken, pace.look_at = False, 1105.0
    pace.wake(1101.0, at_once=True)
    assert pace.look_at == 1105.0


def test_who_is_parked_counts_on_no_machine_any_longer(client):
    client.turns.start_soon([], 0.0)
    client.ledger.boot("m1", None, 0.0)
    assert not client.turns.park(client.ledger, lambda: 1.0)
    assert client.ledger.is_booting("m1")
    assert client.turns.park(client.ledger, lambda: None)
    assert not client.ledger.is_booting("m1")


@pytest.mark.parametrize("reached", [lambda turns: turns.accepted(), lambda turns: turns.troubles.may_pass(
    MachinesError("busy", 500), 0.0, 60.0, passing=False)], ids=["accepted", "refused"])  # fmt: skip
def test_who_was_answered_has_reached_fly(reached):
    turns = Turns("c")
    reached(turns)
    turns.troubles.tell()
    assert turns.troubles.may_pass(MachinesError("away"), 0.0, 60.0, passing=False)
    assert turns.troubles.may_pass(MachinesError("away"), FIRST_CONTACT + 1, 60.0, passing=False)


def test_calls_that_all_ended_before_the_next_came_part_two_times_though_the_thread_was_not_awake_in_between(client):
    turns, pace = client.turns, client.turns.pace
    turns.start_soon([], 1000.0)
    client.hear(look(), 1000.0)
    turns.part_busy_times(client.ledger, 999.0)  # the first of these calls is pending still
    turns.start_soon([], 1003.0, at_once=False)
    assert pace.look_at == 1000.0 + LOOK_EVERY
    client.ledger.boot("m1", None, 1003.0)
    turns.part_busy_times(client.ledger, 1004.0)
    assert not client.ledger.is_booting("m1")
    turns.start_soon([], 1004.0, at_once=False)
    assert pace.look_at == 1004.0 + LOOK_EVERY
    turns.part_busy_times(client.ledger, None)  # these have ended already
    assert not pace.woken


def test_what_is_owed_is_not_forgotten_between_two_times(client):
    client.turns.start_soon(["c.1:1"], 1000.0)
    client.turns.part_busy_times(client.ledger, 1001.0)
    assert client.turns.pace.is_due(1000.0)


def test_a_trouble_is_said_at_its_begin_and_now_and_then():
    troubles = Troubles()
    assert [troubles.is_news(now) for now in (0.0, 5.0, SAY_EVERY - 1, SAY_EVERY, SAY_EVERY + 1)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    for end in (troubles.end, troubles.tell):
        end()
        assert troubles.is_news(SAY_EVERY + 2)
        assert not troubles.is_news(SAY_EVERY + 3)
