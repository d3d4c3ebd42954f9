"""What a client has under way at Fly, and what Redis's word makes of it. No clock: each test says what time it is."""

from dataclasses import replace

import pytest

from flyexecutor.errors import MachinesError
from flyexecutor.fleet.ledger import AVOID_FOR, Ledger
from flyexecutor.fleet.machine import Exit, Machine
from flyexecutor.fleet.policy import Boot, Create, Start, Wake

RESTS = Machine("m1", "m1", "suspended", "iad", "1", "ok", None)
ENDED = Exit(0, -1, False, 1)


@pytest.fixture
def ledger():
    return Ledger()


def create(reservation):
    return Create(reservation, keeper=True)


def creating(in_hand):
    return [asked.reservation for asked in in_hand.creating]


def test_a_start_is_under_way_until_fly_has_answered(ledger):
    action = Start("r", RESTS)
    ledger.begin(action)
    assert (ledger.busy, ledger.in_hand().starting) == (True, {"m1"})
    ledger.end(action)
    assert (ledger.busy, ledger.in_hand().starting) == (False, frozenset())


def test_a_create_is_under_way_from_the_plan_until_fly_has_answered(ledger):
    ledger.create_soon(create("r1"))
    ledger.create_soon(create("r2"))
    assert (creating(ledger.in_hand()), ledger.first) == (["r1", "r2"], create("r1"))
    ledger.take_create(wanted=True)
    assert (creating(ledger.in_hand()), ledger.first, ledger.busy) == (["r1", "r2"], create("r2"), True)
    ledger.take_create(wanted=False)
    assert creating(ledger.in_hand()) == ["r1"]
    ledger.end(create("r1"))
    assert (creating(ledger.in_hand()), ledger.busy) == ([], False)


def test_each_create_takes_one_moment_and_the_next_takes_another(ledger):
    taken = []

    def take():
        taken.append(len(taken) + 1.0)
        return taken[-1]

    assert ledger.next_create(100.0, take) is None
    ledger.create_soon(create("r1"))
    ledger.create_soon(create("r2"))
    assert [ledger.next_create(now, take) for now in (100.0, 100.5, 101.0)] == [101.0] * 3
    ledger.take_create(wanted=True)
    assert ledger.next_create(101.0, take) == 103.0
    assert taken == [1.0, 2.0]


def test_who_closes_is_told_what_waited_and_not_what_fly_has_been_asked_for(ledger):
    for name in ("r1", "r2", "r3"):
        ledger.create_soon(create(name))
    ledger.take_create(wanted=True)
    assert ledger.drop_creates() == ["r2", "r3"]
    assert creating(ledger.in_hand()) == ["r1"]


def test_a_create_whose_reservation_has_expired_is_not_made(ledger):
    for name in ("asked for", "old", "r"):
        ledger.create_soon(create(name))
    ledger.take_create(wanted=True)
    left = ledger.keep(ledger.in_hand(), frozenset({"r", "other"}))
    assert creating(left) == creating(ledger.in_hand()) == ["asked for", "r"]  # with Fly it can't be undone


def test_a_create_that_came_after_redis_was_asked_is_judged_by_the_next_word(ledger):
    before = ledger.in_hand()
    ledger.create_soon(create("r"))
    assert creating(ledger.keep(before, frozenset({"r"}))) == []
    assert creating(ledger.in_hand()) == ["r"]


def test_a_machine_that_has_joined_boots_no_longer_and_one_that_was_started_meanwhile_does(ledger):
    ledger.boot("joined", None, 1.0)
    ledger.boot("slow", ENDED, 2.0)
    before = ledger.in_hand()
    ledger.boot("meanwhile", None, 3.0)
    left = ledger.keep(before, frozenset({"slow"}))
    assert left.boots == ledger.in_hand().boots == {"slow": Boot(2.0, ENDED), "meanwhile": Boot(3.0, None)}
    assert [ledger.is_booting(name) for name in ("joined", "slow", "meanwhile")] == [False, True, True]


def test_a_machine_that_fly_has_not_answered_for_is_not_judged_yet(ledger):
    ledger.boot("m1", None, 1.0)
    ledger.begin(Start("r", RESTS))
    left = ledger.keep(ledger.in_hand(), frozenset({"m1"}))
    assert (left.boots, left.starting) == ({}, {"m1"})
    assert ledger.is_booting("m1")


def test_what_had_ended_before_it_is_judged_stays_in_the_hand_that_was_looked_into(ledger):
    ledger.boot("m1", None, 1.0)
    ledger.begin(Start("r", RESTS))
    before = ledger.in_hand()
    ledger.end(Start("r", RESTS))
    left = ledger.keep(before, frozenset({"m1"}))
    assert (left.starting, [*left.boots]) == ({"m1"}, ["m1"])


def test_the_hand_that_was_looked_into_does_not_change_with_the_ledger(ledger):
    ledger.boot("m1", None, 1.0)
    before = ledger.in_hand()
    ledger.forget("m1")
    ledger.forget("m1")
    assert ([*before.boots], ledger.is_booting("m1")) == (["m1"], False)


@pytest.mark.parametrize(
    ("status", "text", "passes", "avoided"),
    [
        (404, "no such machine", True, False),
        (408, "it does not rest", True, False),
        (409, "somebody was faster", True, False),
        (412, "it is started", True, False),
        (412, "insufficient resources to create new machine", True, True),
        (422, "no capacity", False, True),
        (412, "unable to start machine from current state: 'created'", True, True),
        (403, "wrong token", False, False),
        (500, "broken", False, False),
        (None, "no answer", False, False),
    ],
)
def test_a_refused_start_passes_or_not_and_the_machine_is_avoided_or_not(ledger, status, text, passes, avoided):
    assert ledger.refuse("m1", MachinesError(text, status), 10.0) is passes
    assert ledger.avoided(10.0) == ({"m1"} if avoided else frozenset())


def test_a_machine_is_avoided_for_a_while(ledger):
    ledger.avoid("m1", 10.0)
    assert ledger.avoided(9.9 + AVOID_FOR) == {"m1"}
    assert ledger.avoided(10.0 + AVOID_FOR) == frozenset()


def test_two_starts_of_a_turn_are_two(ledger):
    first, second = Start("r1", RESTS), Start("r2", replace(RESTS, id="m2"))
    ledger.begin(first)
    ledger.begin(second)
    ledger.end(first)
    assert (ledger.in_hand().starting, ledger.busy) == ({"m2"}, True)


# Machines that are said to rest


def test_one_machine_may_be_woken_twice_at_a_time(ledger):
    for _ in range(2):
        ledger.begin(Wake("m1"))
    ledger.end(Wake("m1"))
    assert (ledger.busy, ledger.in_hand().starting) == (True, {"m1"})
    ledger.end(Wake("m1"))
    assert (ledger.busy, ledger.in_hand().starting) == (False, frozenset())


def test_a_boot_that_fly_has_accepted_counts_from_then_on_and_one_that_was_forgotten_stays_forgotten(ledger):
    ledger.boot("m1", ENDED, 1.0)
    ledger.boot("m2", None, 1.0, seen=False)
    for machine in ("m1", "m2", "m3"):
        ledger.accept(machine, 5.0)
    assert ledger.in_hand().boots == {"m1": Boot(5.0, ENDED), "m2": Boot(5.0, None, seen=False)}


def test_when_nobody_needs_a_machine_only_those_are_counted_on_that_fly_has_not_answered_for(ledger):
    for machine in ("m1", "m2"):
        ledger.boot(machine, None, 1.0)
    ledger.begin(Wake("m2"))
    ledger.forget_boots()
    assert [*ledger.in_hand().boots] == ["m2"]
