"""What a worker exchanges with Redis, and what it keeps until Redis has it: with a recorded store."""

import signal

import pytest

from flyexecutor import RedisUnavailableError
from flyexecutor.call import Part
from flyexecutor.payload.trust import Trust
from flyexecutor.states import State
from flyexecutor.store.calls import BUNDLE_BYTES, Claimed, Intake, Stay
from flyexecutor.terms import new_terms
from flyexecutor.worker.crew import Interrupted
from flyexecutor.worker.exchange import Exchange
from flyexecutor.worker.membership import Membership
from flyexecutor.worker.pipe import AGAIN, RETURNED, Message
from flyexecutor.worker.runner_process import Answer, Death
from tests.worker.fakes import RecordedInbox, RecordedStore, make_call

TRUST = Trust(b"k" * 32, "app")
AWAY = RedisUnavailableError("away")
NOTHING = Claimed((), 0)


@pytest.fixture
def make(clock):
    def make(**answers):
        answers = {"finish": [NOTHING], "inbox": [RecordedInbox()], **answers}
        store = RecordedStore(**answers)
        member = Membership(store, "lane", "m1", idle_timeout=10.0, concurrency=2, suspends=True)
        return Exchange(store, TRUST, member, lane="lane", machine_id="m1", region="iad", concurrency=2), store

    return make


def sealed_call(name, *lanes, **rest):
    """A call with terms that can be read."""
    return make_call(name, sealed=TRUST.seal_call(name, new_terms(lanes or ("lane",), result_ttl=60.0), b""), **rest)


def answered(name, body=b"sealed", logs=b"", kind=RETURNED):
    call = make_call(name)
    return Answer(call, Message(kind, call.id, 1, seconds=1.0, longest=1.0, body=body), logs)


def interrupted(name, code):
    return Interrupted(make_call(name), Death(code, "", b"logs", cut_off=False))


def names(records):
    return [record.id.rstrip(".") for record in records]


def held(exchange):
    return [call_id.rstrip(".") for call_id in exchange.held()]


# Claim


def test_calls_are_claimed_with_their_terms_as_far_as_they_can_be_read(make):
    readable, junk = sealed_call("a"), make_call("b", sealed=b"junk")
    exchange, store = make(claim=[Claimed([readable, junk], 0)])
    first, second = exchange.claim(3, 1)
    assert first.terms == TRUST.unverified_terms(readable.sealed)
    assert second is junk
    asked = {"lane": "lane", "machine_id": "m1", "region": "iad", "intake": Intake(3, 1, 2, "", 0), "known": {}}
    assert store.asked[1:] == [("claim", asked)]


def test_a_call_that_does_not_belong_here_ends_and_the_others_run(make):
    exchange, _ = make(claim=[Claimed([sealed_call("a"), sealed_call("b", "another"), sealed_call("c")], 0)])
    assert names(exchange.claim(3, 0)) == ["a", "c"]
    (refused,) = exchange.outcomes
    assert (names([refused]), refused.state) == (["b"], State.FAILED)
    assert exchange.owes


def test_what_the_last_calls_shared_is_not_asked_for_again(make):
    shared, expired = Part("p", b"part"), Part("q", b"")
    exchange, store = make(claim=[Claimed([sealed_call("a", parts=(shared, expired)), sealed_call("b")], 0), NOTHING])
    exchange.claim(1, 0)
    exchange.claim(1, 0)
    assert store.last("claim")["known"] == {"p": shared}
    exchange.end(answered("a"))
    exchange.finish(1, 0)
    assert store.last("finish")["known"] == {"p": shared}


def test_what_can_not_be_run_is_handed_back(make):
    exchange, store = make()
    calls = [make_call("a"), make_call("b")]
    exchange.inbox.read_to = "1-1"
    exchange.hand_back(calls, stops=False)
    asked = {"lane": "lane", "machine_id": "m1", "calls": calls, "stops": False, "read_to": "1-1"}
    assert store.asked[1:] == [("hand_back", asked)]


def test_it_knows_how_many_calls_will_come_by_its_inbox(make):
    exchange, store = make(claim=[Claimed([], 2)], finish=[Claimed([], 1)])
    exchange.claim(2, 2)
    assert exchange.to_come == 2
    exchange.inbox.calls, exchange.inbox.kills, exchange.inbox.read_to = [sealed_call("a")], ["b"], "1-1"
    calls, kills = exchange.receive()
    assert (names(calls), calls[0].terms.lanes, kills, exchange.to_come) == (["a"], ["lane"], ["b"], 1)
    exchange.end(answered("a"))
    exchange.finish(1, 1)
    assert (store.last("finish")["intake"].read_to, exchange.inbox.read_to, exchange.to_come) == ("1-1", "", 1)
    exchange.hand_back([], stops=False)
    assert exchange.to_come == 1
    exchange.hand_back([], stops=True)
    assert exchange.to_come == 0


def test_what_it_was_to_get_is_forgotten_when_it_joins_again_or_wanted_to_leave(make):
    exchange, store = make(claim=[Claimed([], 2)], leave=[Stay(1.0, "needed"), None])
    exchange.claim(2, 2)
    exchange.joined()
    assert (exchange.to_come, exchange.inbox.rewound) == (0, 1)
    exchange.claim(2, 2)
    exchange.inbox.read_to = "1-1"
    assert (exchange.leave(), exchange.to_come, store.last("leave")["read_to"]) == (False, 0, "1-1")
    assert exchange.leave()


# Finish


def test_an_outcome_is_kept_until_redis_has_it(make, clock):
    exchange, store = make(finish=[AWAY, Claimed((sealed_call("b"),), 0)])
    exchange.end(answered("a"))
    with pytest.raises(RedisUnavailableError):
        exchange.finish(3, 1)
    assert (exchange.owes, held(exchange)) == (True, ["a"])
    assert names(exchange.finish(4, 2)) == ["b"]
    assert (exchange.owes, held(exchange)) == (False, [])
    asked = store.last("finish")
    assert (names(asked["outcomes"]), asked["intake"]) == (["a"], Intake(4, 2, 2, "", 0))


def test_outcomes_are_stored_in_order_as_many_as_one_request_takes(make):
    exchange, store = make()
    half = bytes(BUNDLE_BYTES // 2)
    exchange.end(answered("a", half))
    exchange.end(answered("b", half[1:], logs=b"x"))
    exchange.end(answered("c"))
    exchange.end(answered("d", half + half + half))
    bundles = []
    while exchange.outcomes:
        exchange.finish(0, 0)
        bundles.append(names(store.last("finish")["outcomes"]))
    assert bundles == [["a", "b"], ["c"], ["d"]]


def test_a_worker_whose_lane_needs_fewer_is_spare(make, clock):
    exchange, _ = make(finish=[Claimed((), 0, spare=True), NOTHING])
    exchange.end(answered("a"))
    exchange.finish(0, 0)
    assert exchange._membership.leaves_at <= clock.now
    exchange.end(answered("b"))
    exchange.finish(0, 0)
    assert exchange._membership.leaves_at == clock.now + 10.0


def test_a_call_that_has_ended_here_does_not_run_again_unless_its_outcome_came_too_late(make):
    ended, late = sealed_call("a"), sealed_call("b")
    exchange, _ = make(claim=[Claimed([ended, late], 0)], finish=[Claimed((), 0, late=frozenset({1})), NOTHING])
    exchange.joined()
    for call in exchange.claim(2, 0):
        exchange.end(Answer(call, Message(RETURNED, call.id, 1), b""))
    exchange.finish(0, 0)
    assert names(exchange.claim(2, 0)) == ["b"]
    assert names(exchange.outcomes) == ["a"]


def test_another_server_may_have_forgotten_what_ended_here(make):
    call = sealed_call("a")
    exchange, _ = make(claim=[Claimed([call], 0)], run_of_server=["one", "one", "two"])
    exchange.joined()
    (claimed,) = exchange.claim(0, 0)
    exchange.end(Answer(claimed, Message(RETURNED, call.id, 1), b""))
    exchange.finish(0, 0)
    exchange.joined()
    assert exchange.claim(0, 0) == []
    exchange.joined()
    assert names(exchange.claim(0, 0)) == ["a"]


# Elsewhere


def test_a_call_that_is_tried_again_is_queued_with_its_wait_and_expected(make, clock):
    exchange, store = make()
    exchange.end(answered("a", kind=AGAIN))
    assert (exchange.outcomes, exchange.owes) == ([], True)
    exchange.send_elsewhere()
    (asked,) = [arguments for verb, arguments in store.asked if verb == "retry"]
    assert (asked["lane"], names([asked["call"]])) == ("lane", ["a"])
    assert exchange._membership.due_at == clock.now + asked["wait"]
    assert exchange._membership.leaves_at == clock.now + 10.0
    assert not exchange.owes


def test_a_call_that_has_outgrown_its_machine_goes_to_a_larger_one(make):
    exchange, store = make()
    exchange.end(interrupted("a", -signal.SIGKILL))
    exchange.send_elsewhere()
    asked = store.last("outgrow")
    assert (asked["lane"], asked["machine_id"], asked["region"], asked["logs"]) == ("lane", "m1", "iad", b"logs")
    assert "SIGKILL" in asked["reason"]
    assert not exchange.owes


def test_what_goes_elsewhere_is_kept_until_redis_has_it_and_goes_in_order(make):
    exchange, store = make(outgrow=[AWAY, None])
    for ended in (answered("a", kind=AGAIN), interrupted("b", -signal.SIGKILL), answered("c", kind=AGAIN)):
        exchange.end(ended)
    exchange.end(answered("d"))
    with pytest.raises(RedisUnavailableError):
        exchange.send_elsewhere()
    assert held(exchange) == ["d", "b", "c"]
    exchange.send_elsewhere()
    assert store.verbs()[1:] == ["retry", "outgrow", "outgrow", "retry"]
    assert held(exchange) == ["d"]


def test_a_call_that_crashed_or_is_wanted_dead_has_an_outcome(make):
    exchange, _ = make()
    exchange.end(interrupted("a", 3))
    exchange.end_wanted(make_call("b"))
    assert [outcome.state for outcome in exchange.outcomes] == [State.FAILED, State.KILLED]
