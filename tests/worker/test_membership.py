"""How long a worker stays in its lane, in virtual time."""

import pytest

from flyexecutor import RedisUnavailableError
from flyexecutor.store.calls import Stay
from flyexecutor.worker.membership import LEAVE_AGAIN, SOON, Membership
from tests.worker.fakes import RecordedStore

IDLE = 10.0


@pytest.fixture
def make(clock):
    def make(**answers):
        suspends = answers.pop("suspends", True)
        store = RecordedStore(**answers)
        return Membership(store, "lane", "m1", idle_timeout=IDLE, concurrency=2, suspends=suspends), store

    return make


def test_a_worker_that_has_just_joined_may_leave_soon_until_it_gets_a_call(make, clock):
    member, store = make(join=[None])
    member.join(first=True, held=["a"])
    assert store.asked == [("join", {"lane": "lane", "machine_id": "m1", "first": True, "held": ["a"]})]
    assert member.leaves_at == clock.now + LEAVE_AGAIN
    member.worked()
    assert member.leaves_at == clock.now + IDLE


def test_a_worker_that_joins_again_is_no_newcomer(make, clock):
    member, store = make()
    member.worked()
    leaves_at = member.leaves_at
    clock.advance(3.0)
    member.join(first=False, held=())
    assert store.last("join")["first"] is False
    assert member.leaves_at == leaves_at


def test_what_works_stays_for_its_idle_time_and_what_is_spare_goes_at_once(make, clock):
    member, _ = make()
    clock.advance(5.0)
    member.worked()
    assert member.leaves_at == clock.now + IDLE
    member.worked(spare=True)
    assert member.leaves_at <= clock.now


def test_leaving_tells_how_long_it_could_stay(make, clock):
    member, store = make()
    member.worked()
    clock.advance(4.0)
    assert member.leave("1-1")
    assert store.asked == [
        (
            "leave",
            {
                "lane": "lane",
                "machine_id": "m1",
                "must": False,
                "soon": SOON,
                "idle_left": 6.0,
                "concurrency": 2,
                "suspends": True,
                "reason": "",
                "read_to": "1-1",
                "proof": "",
            },
        )
    ]
    clock.advance(20.0)
    member.leave("")
    assert store.last("leave")["idle_left"] == 0.0


def test_a_worker_that_is_needed_is_spare_no_longer_and_asks_again_later(make, clock):
    member, _ = make(leave=[Stay(0.0, "needed"), Stay(30.0, "needed")])
    member.worked(spare=True)
    assert not member.leave("")
    assert member.leaves_at == clock.now + IDLE  # for which it has been no time idle
    clock.advance(IDLE)
    assert not member.leave("")
    assert member.leaves_at == clock.now + 30.0


def test_a_refused_leave_is_not_asked_again_at_once(make, clock):
    member, _ = make(leave=[Stay(0.0, "needed")])
    clock.advance(IDLE)
    assert not member.leave("")
    assert member.leaves_at == clock.now + LEAVE_AGAIN


def test_a_worker_stays_for_a_call_that_is_due_soon(make, clock):
    member, store = make(leave=[Stay(2.0, "due")], tend_due=[7.0, None])
    clock.advance(IDLE)
    assert not member.leave("")
    assert member.due_at == clock.now + 2.0
    clock.advance(1.9)
    member.tend_due()
    assert "tend_due" not in store.verbs()
    clock.advance(0.1)
    member.tend_due()
    assert (store.verbs()[-1], member.due_at) == ("tend_due", clock.now + 7.0)
    clock.advance(7.0)
    member.tend_due()
    assert member.due_at is None
    member.tend_due()
    assert store.verbs().count("tend_due") == 2


def test_of_two_calls_that_are_due_the_first_counts(make, clock):
    member, _ = make(join=[5.0])
    member.join(first=True, held=())
    assert member.due_at == clock.now + 5.0
    member.expect_due(8.0)
    assert member.due_at == clock.now + 5.0
    member.expect_due(2.0)
    assert member.due_at == clock.now + 2.0


def test_the_turn_to_be_suspended_is_kept_whatever_comes_meanwhile(make, clock):
    member, store = make(leave=[Stay(3.0, "turn"), None, None])
    member.worked(spare=True)
    assert not member.leave("")
    assert member.leaves_at == clock.now + 3.0  # spare still
    clock.advance(1.0)
    member.worked(spare=True)
    clock.advance(2.0)
    assert member.leaves_at == clock.now
    assert member.leave("")
    assert store.last("leave")["suspends"] is False  # it has been given its turn
    clock.advance(1.0)
    assert member.leave("")
    assert store.last("leave")["suspends"] is True  # that turn was used


def test_before_its_turn_a_worker_asks_for_one_again(make, clock):
    member, store = make(leave=[Stay(3.0, "turn"), None])
    member.leave("")
    clock.advance(2.9)
    member.leave("")
    assert store.last("leave")["suspends"] is True


def test_a_worker_that_is_not_to_be_suspended_asks_for_no_turn(make):
    member, store = make(suspends=False)
    member.leave("")
    assert store.last("leave")["suspends"] is False


def test_nothing_is_known_of_a_leave_whose_answer_was_lost(make, clock):
    member, _ = make(leave=[RedisUnavailableError("away"), None])
    member.worked()
    leaves_at = member.leaves_at
    with pytest.raises(RedisUnavailableError):
        member.leave("")
    assert member.leaves_at == leaves_at
    assert member.leave("")


def test_a_worker_that_must_leave_says_why_what_it_holds_is_lost(make):
    member, store = make(leave=[Stay(9.0, "needed")])
    member.must_leave("old")
    asked = store.last("leave")
    assert (asked["must"], asked["reason"]) == (True, "old")


def test_a_worker_joins_again_only_if_somebody_has_started_its_machine(make, clock):
    member, _ = make(join_if_started=[False, True])
    member.worked()
    leaves_at = member.leaves_at
    clock.advance(50.0)
    assert not member.join_if_started()
    assert member.leaves_at == leaves_at
    assert member.join_if_started()
    assert member.leaves_at == clock.now + LEAVE_AGAIN
