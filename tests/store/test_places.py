"""Calls that come while a worker has a place go to its inbox, in the script that brings them; on a real Redis."""

import select

import pytest

from flyexecutor.call import Call, ClaimedCall, Outcome, Part
from flyexecutor.lane import Lane
from flyexecutor.states import State
from flyexecutor.store.calls import Intake, Stay
from flyexecutor.store.records import INLINE_BYTES

LANE = Lane("lane", {}, (), 10, 1, 60.0)


@pytest.fixture
def rest(store):
    """Workers join, and note so many places."""

    def note(*machines, free=1, more=0, region="iad"):
        for machine in machines:
            if not store.is_worker("lane", machine):
                store.join("lane", machine, first=True)
            told = store.claim("lane", machine, region, Intake(more, free, max(free, 1), ""))
            assert (told.calls, told.to_come) == ([], free)

    return note


@pytest.fixture
def enqueue(store):
    sent = iter(range(1000))

    def send(*calls, **options):
        calls = [Call(call, b"sealed", **{"retries": 1} | options) if isinstance(call, str) else call for call in calls]
        return store.enqueue(LANE, calls, client="c1", result_ttl=60, reservation=f"c1.{next(sent)}").reservations

    return send


@pytest.fixture
def inbox(store):
    """What a machine reads."""
    readers = {}

    def read(machine):
        if machine not in readers:
            readers[machine] = store.inbox(machine)
        readers[machine].ask(0.001)
        return readers[machine].receive({})

    read.readers = readers
    yield read
    for reader in readers.values():
        reader.close()


def ids(calls):
    return [call.id for call in calls]


def state(store, call_id):
    info = store.info(call_id)
    return info.state, info.machine_id, info.attempt


def test_what_was_handed_out_needs_no_machine_even_if_its_worker_runs_more_at_a_time_than_we_think(rest, enqueue):
    rest("m1", free=2)
    assert enqueue("a", "b") == []


def test_a_call_goes_to_the_worker_that_rested_last_and_needs_no_machine(store, rest, enqueue, inbox):
    rest("m1", "m2", "m3")
    rest("m2")
    assert enqueue("a") == []
    assert state(store, "a") == (State.RUNNING, "m2", 1)
    assert (store.info("a").region, store.info("a").run_seconds) == ("iad", None)
    (call,) = inbox("m2").calls
    assert (call.id, call.attempt, call.sealed, call.losses, call.raised) == ("a", 1, b"sealed", 0, 0)
    assert enqueue("b", "c") == []
    assert (ids(inbox("m3").calls), ids(inbox("m1").calls)) == (["b"], ["c"])
    assert len(enqueue("d")) == 1
    assert state(store, "d")[0] is State.QUEUED
    assert (store.meter("lane").queued, store.meter("lane").running) == (1, 3)


def test_a_worker_with_several_places_gets_as_many_and_one_that_is_noted_twice_is_there_once(rest, enqueue, inbox):
    rest("m1", free=2)
    rest("m1", free=2)
    enqueue("a", "b", "c")
    assert ids(inbox("m1").calls) == ["a", "b"]
    assert inbox("m1").calls == []


def test_a_worker_that_notes_fewer_places_has_fewer(store, rest, enqueue, inbox):
    rest("m1", free=3)
    assert store.claim("lane", "m1", "iad", Intake(1, 1, 3, "")).to_come == 1
    enqueue("a", "b")
    assert ids(inbox("m1").calls) == ["a"]


def test_what_waits_is_taken_before_a_place_is_noted(store, rest, enqueue):
    enqueue("a", "b")
    store.join("lane", "m1", first=True)
    told = store.claim("lane", "m1", "iad", Intake(0, 3, 3, ""))
    assert (ids(told.calls), told.to_come) == (["a", "b"], 1)


def test_what_lies_unread_takes_room(store, rest, enqueue, inbox):
    rest("m1", free=2)
    enqueue("a")
    told = store.claim("lane", "m1", "iad", Intake(2, 2, 2, ""))  # it has not seen it yet
    assert (told.calls, told.to_come) == ([], 2)
    enqueue("b", "c")
    assert ids(inbox("m1").calls) == ["a", "b"]
    told = store.claim("lane", "m1", "iad", Intake(1, 0, 2, inbox.readers["m1"].read_to))
    assert (ids(told.calls), told.to_come) == (["c"], 0)


def test_who_finishes_gets_what_waits_or_has_a_place_again(store, rest, enqueue, inbox):
    rest("m1")
    enqueue("a", "b")
    (one,) = inbox("m1").calls
    for call, following, to_come in ((one, ["b"], 0), (ClaimedCall("b", 1, b""), [], 1)):
        outcome = Outcome(call.id, 1, State.SUCCEEDED, "m1", "iad", b"value")
        read_to = inbox.readers["m1"].read_to
        told = store.finish("lane", "m1", "iad", [outcome], Intake(1, 1, 1, read_to))
        inbox.readers["m1"].note_removed()
        assert (ids(told.calls), told.to_come) == (following, to_come)
    enqueue("c")
    assert ids(inbox("m1").calls) == ["c"]


def test_large_and_shared_payloads_come_by_an_inbox_and_so_do_orders(store, rest, enqueue, inbox):
    rest("m1", free=2)
    shared = Part("part", b"shared")
    store.put_part(shared)
    enqueue(Call("a", bytes(INLINE_BYTES + 1)), Call("b", b"sealed", parts=[shared], name="named"))
    store.kill("b")
    mail = inbox("m1")
    assert [(call.id, call.sealed, list(call.parts), call.name) for call in mail.calls] == [
        ("a", bytes(INLINE_BYTES + 1), [], ""),
        ("b", b"sealed", [shared], "named"),
    ]
    assert mail.kills == ["b"]


def test_a_call_that_is_begun_at_once_does_not_expire(store, rest, enqueue, raw_redis):
    rest("m1")
    enqueue(Call("a", b"sealed", expires=0.001, expired=b"late"))
    assert store.tend_due("lane") is None
    assert raw_redis.hmget(store._key("call", "a"), "expires", "expired") == [None, None]
    assert state(store, "a")[0] is State.RUNNING
    assert store.cancel(["a"]) == []


def test_a_batch_that_is_sent_again_is_handed_out_once(store, rest, inbox):
    rest("m1", "m2")
    for _ in range(2):
        store.enqueue(LANE, [Call("a", b"sealed")], client="c1", result_ttl=60, reservation="c1.1")
    assert (ids(inbox("m2").calls), inbox("m1").calls) == (["a"], [])


@pytest.mark.parametrize("how", ["hand back", "retry", "retry later", "lose", "join", "outgrow", "stand", "leave"])
def test_whatever_queues_a_call_again_hands_it_to_who_has_a_place(store, rest, enqueue, inbox, raw_redis, how):
    enqueue(Call("a", b"sealed", 1, bigger=("lane",)))
    store.join("lane", "m1", first=True)
    (call,) = store.claim("lane", "m1", "iad", Intake(1, 0, 1, "")).calls
    rest("m2")
    match how:
        case "hand back":
            store.hand_back("lane", "m1", [call])
        case "retry":
            store.retry("lane", call, 0.0)
        case "retry later":
            store.retry("lane", call, 0.001)
            while state(store, "a")[0] is State.QUEUED:
                store.tend_due("lane")
        case "lose":
            store.bury(LANE, "m1", store.look(LANE, "look").workers["m1"], "gone", oom=False)
        case "join":
            store.join("lane", "m1", first=False)
        case "outgrow":
            store.outgrow("lane", "m1", "iad", call, "too large", b"")
        case "stand":
            raw_redis.hdel(store._key("workers", "lane"), "m1")
            store.standing(["a"])
        case "leave":
            store.leave("lane", "m1", must=True)
    assert state(store, "a") == (State.RUNNING, "m2", 2)
    assert [(one.id, one.attempt) for one in inbox("m2").calls] == [("a", 2)]


# Who goes


def test_who_leaves_or_is_buried_or_joins_anew_gets_nothing_more(store, rest, enqueue):
    rest("m1", "m2", "m3")
    assert store.leave("lane", "m1", must=False) is None
    store.bury(LANE, "m2", store.look(LANE, "look").workers["m2"], "gone", oom=False)
    store.join("lane", "m3", first=True)
    enqueue("a")
    assert state(store, "a")[0] is State.QUEUED


def test_a_worker_stays_for_what_it_has_not_read_and_nobody_takes_that(store, rest, enqueue, inbox):
    rest("m1")
    enqueue("a", retries=0)
    assert store.leave("lane", "m1", must=False) == Stay(0.0, "needed")
    assert state(store, "a") == (State.RUNNING, "m1", 1)
    assert ids(inbox("m1").calls) == ["a"]
    store.leave("lane", "m1", must=True)
    assert state(store, "a")[0] is State.QUEUED  # at no cost: it says itself that it has not begun


def test_who_takes_nothing_more_hands_back_what_it_has_not_read_and_keeps_orders(store, rest, enqueue, inbox):
    rest("m1", free=2)
    enqueue("a")
    (runs,) = inbox("m1").calls
    enqueue("b", retries=0)
    store.kill("a")
    store.hand_back("lane", "m1", [], stops=True, read_to=inbox.readers["m1"].read_to)
    assert (state(store, runs.id)[0], state(store, "b")[0]) == (State.RUNNING, State.QUEUED)
    mail = inbox("m1")
    assert (mail.calls, mail.kills) == ([], ["a"])
    enqueue("c")
    assert state(store, "c")[0] is State.QUEUED


def test_a_machine_that_dies_has_lost_what_was_handed_to_it(store, rest, enqueue, raw_redis):
    rest("m1", free=2)
    enqueue("a", retries=0)
    enqueue("b")
    assert store.bury(LANE, "m1", store.look(LANE, "look").workers["m1"], "gone", oom=False) == 2
    assert (state(store, "a")[0], state(store, "b")[0]) == (State.LOST, State.QUEUED)
    assert raw_redis.exists(store._key("inbox", "m1")) == 0


@pytest.fixture
def wait(raw_redis, store):
    """What lies in an inbox has lain there for a minute."""

    def pass_time(machine):
        key = store._key("inbox", machine)
        entries = store._redis.xrange(key)
        raw_redis.delete(key)
        for n, (_, fields) in enumerate(entries):
            store._redis.xadd(key, fields, id=f"1-{n + 1}")

    return pass_time


@pytest.mark.parametrize("by", ["a look", "another that leaves"])
def test_what_a_worker_that_hangs_does_not_read_runs_elsewhere_if_it_may_run_twice(
    store, rest, enqueue, wait, inbox, by
):
    rest("m1", free=6)
    enqueue("a", "b")
    enqueue("c", retries=0)
    store.cancel(["b"])
    wait("m1")
    enqueue("d")
    store.join("lane", "m2", first=True)
    if by == "a look":
        store.look(LANE, "look")
    else:
        assert store.leave("lane", "m2", must=False) == Stay(0.0, "needed")
    assert [state(store, one)[0] for one in "acd"] == [State.QUEUED, State.RUNNING, State.QUEUED]
    enqueue("e")
    assert state(store, "e")[0] is State.QUEUED  # it hangs
    assert ids(inbox("m1").calls) == ["c"]  # it does not hang any more
    told = store.claim("lane", "m2", "iad", Intake(9, 0, 1, ""))
    assert [(call.id, call.attempt, call.losses) for call in told.calls] == [
        ("a", 2, 1),
        ("b", 2, 1),
        ("d", 2, 1),
        ("e", 1, 0),
    ]


def test_what_was_read_just_now_is_not_taken_back(store, rest, enqueue):
    rest("m1")
    enqueue("a")
    store.look(LANE, "look")
    assert state(store, "a") == (State.RUNNING, "m1", 1)


def test_an_entry_of_a_call_that_runs_elsewhere_is_removed_and_changes_nothing(store, rest, enqueue, wait, inbox):
    rest("m1", free=2)
    enqueue("a", "b")
    wait("m1")
    store.hand_back("lane", "m1", [ClaimedCall("a", 1, b"")])
    store.look(LANE, "look")
    assert inbox("m1").calls == []
    assert state(store, "a") == (State.QUEUED, "m1", 1)


@pytest.mark.parametrize("place", ["nonsense", "m1", "m1 iad", "m1 iad x", b"\xff"])
def test_a_place_that_is_none_is_passed_over(store, rest, enqueue, inbox, place):
    rest("m1")
    store._redis.zadd(store._key("places", "lane"), {place: float("inf")})
    enqueue("a")
    assert ids(inbox("m1").calls) == ["a"]


def test_a_worker_without_a_region_has_places(store, rest, enqueue, inbox):
    rest("m1", region="")
    enqueue("a")
    assert (ids(inbox("m1").calls), store.info("a").region) == (["a"], "")


def test_who_joins_again_hears_of_orders_that_it_has_not_read(store, rest, enqueue, inbox):
    rest("m1", free=2)
    enqueue("a")
    assert ids(inbox("m1").calls) == ["a"]
    store.kill("a")
    enqueue("b")
    store.join("lane", "m1", first=False, held=["a"])
    inbox.readers["m1"].rewind()
    mail = inbox("m1")
    assert (mail.calls, mail.kills) == ([], ["a"])
    assert (state(store, "a")[0], state(store, "b")[0]) == (State.RUNNING, State.QUEUED)
    store.join("lane", "m1", first=True)  # another process: it has nothing that anybody wanted dead
    inbox.readers["m1"].rewind()
    assert inbox("m1").kills == []


@pytest.mark.parametrize(("stops", "handed"), [(False, State.RUNNING), (True, State.QUEUED)])
def test_who_hands_something_back_keeps_its_places_unless_it_stops(store, rest, enqueue, stops, handed):
    rest("m1")
    store.hand_back("lane", "m1", [], stops=stops)
    enqueue("a")
    assert state(store, "a")[0] is handed
    store.hand_back("lane", "m1", [], stops=stops)  # what it has not read it may still read, or not
    assert state(store, "a")[0] is handed


def test_who_has_read_something_and_asks_again_has_nothing_to_receive_before_something_comes(store, rest, enqueue):
    rest("m1", free=2)
    reader = store.inbox("m1")
    enqueue("a")
    reader.ask(20.0)
    assert ids(reader.receive({}).calls) == ["a"]
    reader.ask(20.0)
    assert select.select([reader], [], [], 0.3)[0] == []  # or its owner would wait for 20 s, deaf to all else
    assert store._redis.xlen(store._key("inbox", "m1")) == 0  # what was read is no longer there
    enqueue("b")
    assert select.select([reader], [], [], 20.0)[0] == [reader]
    assert ids(reader.receive({}).calls) == ["b"]
    reader.close()
