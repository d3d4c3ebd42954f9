"""What Redis holds of large payloads while they are needed, afterwards, and when somebody dies in between."""

import os

import pytest

from flyexecutor.call import Call, Outcome, Part, Report
from flyexecutor.client import outbox
from flyexecutor.client.outbox import Outbox
from flyexecutor.errors import RedisUnavailableError
from flyexecutor.lane import Lane
from flyexecutor.states import State
from flyexecutor.store import records
from flyexecutor.store.calls import Intake
from flyexecutor.store.records import INLINE_BYTES, PIECE_TTL, UNTAKEN_TTL
from flyexecutor.terms import UNFINISHED_TTL

LANE = Lane("lane", {}, (), 10, 1, 60.0)
LARGE = bytes(INLINE_BYTES + 1)
MINUTES = UNTAKEN_TTL + 3 * PIECE_TTL


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(records, "PIECE_BYTES", INLINE_BYTES)


@pytest.fixture
def worker(store):
    store._redis.hset(store._key("workers", LANE.name), "m", 1)


@pytest.fixture
def pieces(raw_redis):
    """The seconds that each piece of a large payload will be there."""
    return lambda: [raw_redis.ttl(key) for key in raw_redis.keys("*:piece:*")]


def enqueue(store, *calls, name="c.1"):
    return store.enqueue(LANE, calls, client="c", result_ttl=1000, reservation=name).reservations


def claim(store):
    return store.claim(LANE.name, "m", "iad", Intake(1000, 0, 1, "")).calls


def finish(store, *calls, sealed=b"value"):
    outcomes = [Outcome(call.id, call.attempt, State.SUCCEEDED, "m", "iad", sealed) for call in calls]
    store.finish(LANE.name, "m", "iad", outcomes, Intake(0, 0, 1, ""))


def refuse(*_, **__):
    raise RedisUnavailableError("away")


# Payloads of calls and outcomes


def test_a_large_call_that_is_never_enqueued_goes_in_minutes(store, pieces, monkeypatch):
    monkeypatch.setattr("flyexecutor.store.calls.script", lambda _name: refuse)
    with pytest.raises(RedisUnavailableError):
        enqueue(store, Call("a", LARGE))
    assert len(pieces()) == 2
    assert all(0 < left <= MINUTES for left in pieces())


def test_a_large_call_is_kept_as_long_as_it_may_be_claimed(store, pieces):
    for _ in range(2):  # sent again after a lost answer
        enqueue(store, Call("a", LARGE))
        assert all(left > MINUTES for left in pieces())


def test_a_large_outcome_of_a_worker_that_died_goes_in_minutes(store, pieces, worker, monkeypatch):
    enqueue(store, Call("a", b""))
    (call,) = claim(store)
    monkeypatch.setattr("flyexecutor.store.calls.script", lambda _name: refuse)
    with pytest.raises(RedisUnavailableError):
        finish(store, call, sealed=LARGE)
    assert all(0 < left <= MINUTES for left in pieces())


def test_a_large_outcome_is_kept_for_result_ttl_however_often_it_is_sent(store, pieces, worker):
    enqueue(store, Call("a", b""))
    (call,) = claim(store)
    for _ in range(2):
        finish(store, call, sealed=LARGE)
        assert all(MINUTES < left <= 1000 for left in pieces())


def test_a_large_outcome_of_an_attempt_that_is_over_goes_at_once(store, pieces, worker):
    enqueue(store, Call("a", b""))
    (call,) = claim(store)
    store.hand_back(LANE.name, "m", [call])
    finish(store, call, sealed=LARGE)
    assert pieces() == []


def test_a_large_item_of_a_call_that_does_not_run_goes_at_once(store, pieces, worker):
    enqueue(store, Call("a", b""))
    (call,) = claim(store)
    store.report([Report(call.id, call.attempt, Report.ITEM, 0, LARGE)])
    assert all(left > MINUTES for left in pieces())
    assert len(pieces()) == 2
    finish(store, call)
    store.report([Report(call.id, call.attempt, Report.ITEM, 1, LARGE)])
    assert len(pieces()) == 2


def test_a_large_call_that_is_sent_again_and_not_to_the_end_is_kept_as_long(store, pieces, monkeypatch):
    enqueue(store, Call("a", LARGE))
    monkeypatch.setattr("flyexecutor.store.calls.script", lambda _name: refuse)
    with pytest.raises(RedisUnavailableError):
        enqueue(store, Call("a", LARGE))
    assert all(left > MINUTES for left in pieces())


def test_a_large_outcome_that_is_sent_again_and_not_to_the_end_is_kept_as_long(store, pieces, worker, monkeypatch):
    enqueue(store, Call("a", b""))
    (call,) = claim(store)
    finish(store, call, sealed=LARGE)
    monkeypatch.setattr("flyexecutor.store.calls.script", lambda _name: refuse)
    with pytest.raises(RedisUnavailableError):
        finish(store, call, sealed=LARGE)
    assert all(left > MINUTES for left in pieces())


def test_a_call_whose_payload_has_expired_on_its_way_is_not_stored_and_may_be_sent_again(store, worker, monkeypatch):
    with monkeypatch.context() as late:
        late.setattr(store._bulk, "evalsha", lambda *_: None)
        with pytest.raises(RedisUnavailableError) as told:
            enqueue(store, Call("a", LARGE))
    assert not told.value.permanent
    assert claim(store) == []
    enqueue(store, Call("a", LARGE))
    assert [call.sealed for call in claim(store)] == [LARGE]


def test_an_outcome_that_expired_unread_is_not_taken_for_the_next_of_its_key(store, raw_redis, worker):
    for client in ("c", "d"):
        store.enqueue(LANE, [Call("key", b"", keyed=True)], client=client, result_ttl=60, reservation=f"{client}.1")
        finish(store, *claim(store), sealed=bytes(20_000))
        if client == "c":
            raw_redis.delete(store._key("call", "key"))
            ended = raw_redis.time()
            while raw_redis.time()[1] // 1000 == ended[1] // 1000:
                pass
    sizes = []
    for client in ("c", "d"):
        reader = store.outcomes(client)
        sizes += (len(outcome.sealed) for outcome in reader.read(5.0))
        reader.close()
    assert sizes == [0, 20_000]


# What calls share


def test_what_calls_share_is_stored_again_when_it_is_gone(store, raw_redis, worker):
    box = Outbox(store, client="c", result_ttl=60, stored=lambda *_: None, failed=lambda *_: None)
    part = Part("part", LARGE)
    for name in ("a", "b"):
        box.put(Call(name, b"", parts=[part]), LANE)
        box._send(box._gather())
        assert [[one.sealed for one in call.parts] for call in claim(store)] == [[LARGE]]
        raw_redis.delete(*raw_redis.keys("*:piece:*"))


def test_what_was_not_looked_after_while_redis_was_away_is_before_the_next_call_is_sent():
    away, looked = [False, True], []

    class Away:
        address = "redis://fake"

        def put_part(self, part):
            looked.append(part.id)

        def enqueue(self, *_, **__):
            if away.pop():
                refuse()

    box = Outbox(Away(), client="c", result_ttl=60, stored=lambda *_: None, failed=lambda *_: None)
    box.put(Call("a", b"", parts=[Part("part", b"")]), LANE)
    box._send(box._gather())
    assert looked == ["part", "part"]


def test_no_more_is_sent_before_a_batch_than_it_may_hold():
    box = Outbox(None, client="c", result_ttl=60, stored=lambda *_: None, failed=lambda *_: None)
    for n in range(20):
        box.put(Call(f"call {n}", bytes(1_000_000), parts=[Part(f"part {n}", bytes(1_000_000))]), LANE)
    assert len(box._gather()) == 4


def test_what_calls_share_goes_minutes_after_the_last_call_that_needed_it(store, pieces, raw_redis, worker):
    part = Part("part", LARGE)
    store.put_part(part)
    enqueue(store, Call("a", b"", parts=[part]), Call("b", b"", keep=False, parts=[part]))
    first, second = claim(store)
    assert all(left > UNFINISHED_TTL - 60 for left in pieces())
    finish(store, first)
    assert all(left > UNFINISHED_TTL - 60 for left in pieces())
    finish(store, first)  # again, after a lost answer
    assert all(left > UNFINISHED_TTL - 60 for left in pieces())
    finish(store, second)
    assert all(0 < left <= UNTAKEN_TTL for left in pieces())
    assert len(pieces()) == 2
    assert raw_redis.keys("*:uses:*") == []


def test_what_calls_share_is_not_sent_again_while_it_is_there(store, pieces, worker, monkeypatch):
    part = Part("part", LARGE)
    store.put_part(part)
    enqueue(store, Call("a", b"", parts=[part]))
    store._redis.expire(store._key("piece", "part:1"), 10)
    monkeypatch.setattr(store._bulk, "evalsha", refuse)
    store.put_part(part)
    assert min(pieces()) > UNTAKEN_TTL - 10
    finish(store, *claim(store))
    store.drop_part(part)
    with pytest.raises(RedisUnavailableError):
        store.put_part(part)  # now it is not there


def test_a_part_that_was_dropped_leaves_nothing(store, raw_redis, worker):
    part = Part("part", LARGE)
    store.put_part(part)
    enqueue(store, Call("a", b"", parts=[part]))
    store.drop_part(part)
    assert raw_redis.keys("*:piece:*") + raw_redis.keys("*:uses:*") == []


def test_a_part_that_may_expire_is_looked_after_before_the_next_call_is_sent():
    sent, now = [], [1000.0]

    class Taken:
        address = "redis://fake"

        def put_part(self, part):
            sent.append(part.id)

        def enqueue(self, *_, **__):
            return ()

    box = Outbox(Taken(), client="c", result_ttl=60, stored=lambda *_: None, failed=lambda *_: None)
    part = Part("part", b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox.time, "monotonic", lambda: now[0])
        for pause, expected in ((0, 1), (outbox.PART_KNOWN_FOR - 1, 1), (outbox.PART_KNOWN_FOR - 1, 1), (200, 2)):
            now[0] += pause
            box.put(Call(os.urandom(4).hex(), b"", parts=[part]), LANE)
            box._send(box._gather())
            assert len(sent) == expected


# Who hears of a call


def test_who_attaches_to_a_call_of_a_short_result_ttl_keeps_its_other_outcomes_for_as_long(store, raw_redis, worker):
    enqueue(store, Call("a", b""), name="c.1")
    store.enqueue(LANE, [Call("b", b"")], client="d", result_ttl=1, reservation="d.1")
    store.attach("b", "c")
    finish(store, *claim(store))
    assert raw_redis.ttl(store._key("outcomes", "c")) > 900
    assert raw_redis.ttl(store._key("outcomes", "d")) == 1


def test_however_many_attach_to_a_call_few_are_told_at_once(store, raw_redis, worker):
    enqueue(store, Call("a", b""))
    for n in range(300):
        store.attach("a", f"c{n}")
        store.attach("a", f"c{n}")
    finish(store, *claim(store))
    told = {key.rsplit(":", 1)[1] for key in raw_redis.keys("*:outcomes:*")}
    assert told == {"c", *(f"c{n}" for n in range(300 - 15, 300))}
