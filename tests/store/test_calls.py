"""The store's verbs, on a real Redis; and on fakeredis, whose Lua is another."""

import threading
import time
from unittest.mock import Mock

import fakeredis
import pytest
import redis

from flyexecutor.call import Call, Outcome, Part, Report
from flyexecutor.errors import RedisUnavailableError
from flyexecutor.lane import Lane
from flyexecutor.states import State
from flyexecutor.store.calls import Intake, Stay, Store
from flyexecutor.store.lanes import GIVE_UP_WITHIN, RESERVATION_TTL
from flyexecutor.store.reader import MOST_TAKEN, MOST_TAKEN_BYTES
from flyexecutor.store.records import INLINE_BYTES, PIECE_BYTES, PIECE_TTL, UNTAKEN_TTL
from flyexecutor.terms import UNFINISHED_TTL
from tests.conftest import APP


def lane(max_workers=10, concurrency=1, boot_timeout=60.0):
    return Lane("lane", {}, (), max_workers, concurrency, boot_timeout)


def calls(*ids, keep=True, sealed=b"sealed", retries=1, keyed=False):
    return [Call(call_id, sealed, retries, keep, keyed=keyed) for call_id in ids]


def enqueue(store, batch, *, client="c1", where=None, result_ttl=60):
    sent = store.enqueue(where or lane(), batch, client=client, result_ttl=result_ttl, reservation=f"{client}.1")
    return sent.reservations


def claim(store, limit=1, machine="m1"):
    store._redis.hsetnx(store._key("workers", "lane"), machine, 1)  # as join does; that would do more
    return store.claim("lane", machine, "iad", Intake(limit, 0, 1, "")).calls


def join(store, *machines):
    for machine in machines:
        store.join("lane", machine, first=True)


def bury(store, machine, *, oom=False):
    return store.bury(lane(), machine, store.look(lane(), "look").workers[machine], "gone", oom=oom)


def wait_for_calls(store, *machines, free=1):
    """Join, and note so many places."""
    join(store, *machines)
    for machine in machines:
        assert store.claim("lane", machine, "iad", Intake(free, free, free, "")).calls == []


def receive(store, machine):
    """What was handed to a machine."""
    reader = store.inbox(machine)
    reader.ask(0.001)
    mail = reader.receive({})
    reader.close()
    return mail


def news(store, client="c1"):
    reader = store.outcomes(client)
    told = list(reader.read(5.0))
    reader.close()
    return told


def seconds_left(raw_redis, kind):
    """Of the keys of a kind."""
    return {raw_redis.ttl(key) for key in raw_redis.scan_iter(f"fly:{{{APP}}}:{kind}:*", count=1000)}


@pytest.fixture
def small_parts(monkeypatch):
    """Payloads above 64 bytes are large, and stored in parts of 128."""
    monkeypatch.setattr("flyexecutor.store.records.INLINE_BYTES", 64)
    monkeypatch.setattr("flyexecutor.store.records.PIECE_BYTES", 128)


def finish(store, call, *, sealed=b"value", machine="m1", more=0, logs=b""):
    outcome = Outcome(call.id, call.attempt, State.SUCCEEDED, machine, "iad", sealed, logs)
    return store.finish("lane", machine, "iad", [outcome], Intake(more, 0, 1, "")).calls


@pytest.fixture(params=["real", "fake"])
def any_store(request, monkeypatch):
    if request.param == "real":
        return request.getfixturevalue("store")
    server = fakeredis.FakeServer()
    monkeypatch.setattr(
        "flyexecutor.store.lanes.connect", lambda _url, _timeout: fakeredis.FakeRedis(server=server, protocol=2)
    )
    return Store("redis://fake:1/0", APP)


def test_calls_are_claimed_in_order_and_finished_once(any_store):
    enqueue(any_store, calls("a", "b", "c"))
    first, second = claim(any_store, 2)
    assert [(one.id, one.attempt, one.sealed) for one in (first, second)] == [("a", 1, b"sealed"), ("b", 1, b"sealed")]
    (third,) = finish(any_store, first, more=5)
    assert third.id == "c"
    outcome = any_store.attach("a", "c2").outcome
    assert (outcome.state, outcome.attempt, outcome.machine_id) == (State.SUCCEEDED, 1, "m1")
    assert (outcome.region, outcome.sealed) == ("iad", b"value")
    info = any_store.attach("b", "c2").info
    assert (info.state, info.attempt, info.machine_id, info.region) == (State.RUNNING, 1, "m1", "iad")
    assert info.queue_seconds >= 0
    assert info.run_seconds is None
    assert any_store.attach("b", "c2").outcome is None
    assert any_store.attach("nowhere", "c2") is None


def test_a_batch_that_is_sent_twice_is_stored_once(any_store):
    enqueue(any_store, calls("a"))
    enqueue(any_store, calls("a"))
    assert [one.id for one in claim(any_store, 5)] == ["a"]


def test_reservations_are_granted_once_over_all_clients_up_to_max_workers(any_store):
    assert len(enqueue(any_store, calls("a"), client="c1", where=lane(3))) == 1
    assert len(enqueue(any_store, calls(*"bcdef"), client="c2", where=lane(3))) == 2
    assert any_store.look(lane(3), "c1.look").reservations == []
    assert len(any_store.look(lane(3), "c1.look").starts) == 3


def test_one_machine_is_reserved_for_as_many_calls_as_it_runs_at_a_time(any_store):
    assert len(enqueue(any_store, calls(*"abcde"), where=lane(concurrency=2))) == 3


def test_a_live_worker_needs_no_reservation(any_store):
    any_store.join("lane", "m1", first=True)
    assert enqueue(any_store, calls("a")) == []


def test_a_reservation_that_is_not_renewed_expires(store, raw_redis):
    starts = f"fly:{{{APP}}}:starts:lane"
    (kept,) = enqueue(store, calls("a"), where=lane(1))
    soon = raw_redis.time()[0] * 1000 + 5000
    raw_redis.zadd(starts, {kept: soon})
    assert store.look(lane(1), "other", [kept]).reservations == []
    assert raw_redis.zscore(starts, kept) > soon
    raw_redis.zadd(starts, {kept: 1})
    assert store.look(lane(1), "other").reservations == ["other:1"]


def test_a_machine_is_assigned_once_and_join_takes_it_off_the_way(any_store):
    one, two = enqueue(any_store, calls("a", "b"))
    assert any_store.assign(lane(), one, "m1")
    assert not any_store.assign(lane(), two, "m1")
    any_store.join("lane", "m1", first=True)
    look = any_store.look(lane(), "x")
    assert (set(look.workers), look.starts) == ({"m1"}, {two})
    assert not any_store.assign(lane(), two, "m1")


def test_a_machine_is_started_for_a_reservation_that_is_there_still(any_store):
    (one,) = enqueue(any_store, calls("a"))
    any_store.release(lane(), one)
    assert not any_store.assign(lane(), one, "m1", reserved=True)
    assert any_store.look(lane(), "x").starts == {"x:1"}
    assert any_store.assign(lane(), "x:1", "m1", reserved=True)
    assert any_store.assign(lane(), one, "m2")  # made for it, and there
    assert any_store.look(lane(), "x").starts == {"m1", "m2"}


def test_a_machine_is_counted_on_from_its_start_to_its_end_and_no_longer_than_its_boot_may_take(store, raw_redis):
    (one,) = enqueue(store, calls("a"))
    assert not store.is_counted_on("lane", "m1")
    store.assign(lane(), one, "m1")
    assert store.is_counted_on("lane", "m1")
    raw_redis.zadd(f"fly:{{{APP}}}:starts:lane", {"m1": time.time() * 1000 - 1})
    assert not store.is_counted_on("lane", "m1")
    store.join("lane", "m1", first=True)
    assert store.is_counted_on("lane", "m1")


def test_a_late_finish_of_a_lost_attempt_changes_nothing(any_store):
    enqueue(any_store, calls("a"))
    (early,) = claim(any_store, machine="m1")
    any_store.join("lane", "m1", first=True)  # its machine came back without its memory
    (again,) = claim(any_store, machine="m2")
    assert again.attempt == 2
    finish(any_store, early, sealed=b"late")
    info = any_store.info("a")
    assert (info.state, info.attempt, info.machine_id) == (State.RUNNING, 2, "m2")
    finish(any_store, again, machine="m2")
    assert any_store.attach("a", "c").outcome.sealed == b"value"


def test_a_worker_that_rejoins_keeps_what_it_holds_and_loses_nothing_else(any_store):
    enqueue(any_store, calls("a", "b", retries=0))
    claim(any_store, 2)
    any_store.join("lane", "m1", first=False, held=["a"])
    assert any_store.info("a").state is State.RUNNING
    assert any_store.info("b").state is State.QUEUED  # not LOST although it has no retries


def test_a_buried_worker_frees_its_calls_unless_it_has_joined_again(any_store):
    any_store.join("lane", "m1", first=True)
    joined = any_store.look(lane(), "x").workers["m1"]
    enqueue(any_store, calls("a", retries=0))
    claim(any_store)
    assert any_store.bury(lane(), "m1", "another join", "gone", oom=False) == -1
    assert any_store.bury(lane(), "m1", joined, "it is gone", oom=False) == 1
    outcome = any_store.attach("a", "c").outcome
    assert (outcome.state, outcome.sealed, outcome.region) == (State.LOST, b"it is gone", "iad")
    assert any_store.look(lane(), "x").workers == {}


def test_calls_that_are_handed_back_cost_no_retry(any_store):
    enqueue(any_store, calls("a", retries=0))
    any_store.hand_back("lane", "m1", claim(any_store))
    (again,) = claim(any_store)
    assert again.attempt == 2


def test_a_worker_may_not_leave_while_calls_wait_unless_it_must(any_store):
    any_store.join("lane", "m1", first=True)
    enqueue(any_store, calls("a"))
    assert any_store.leave("lane", "m1", must=False) == Stay(0.0, "needed")
    assert any_store.leave("lane", "m1", must=True) is None
    assert any_store.look(lane(), "x").workers == {}


def test_a_cancelled_call_is_not_claimed(any_store):
    enqueue(any_store, calls("a", "b"))
    assert any_store.cancel(["a"]) == ["a"]
    assert [one.id for one in claim(any_store, 5)] == ["b"]
    assert any_store.cancel(["b", "nowhere"]) == []


def test_every_client_that_watches_gets_the_outcome(store):
    enqueue(store, calls("a"), client="c1")
    store.attach("a", "c2")
    finish(store, *claim(store))
    for client in ("c1", "c2"):
        reader = store.outcomes(client)
        assert [outcome.sealed for outcome in reader.read(5.0)] == [b"value"]
        reader.close()


def test_outcomes_are_read_once_and_removed(store, raw_redis):
    enqueue(store, calls("a", "b"))
    reader = store.outcomes("c1")
    for one in claim(store, 2):
        finish(store, one)
    assert [outcome.id for outcome in reader.read(5.0)] == ["a", "b"]
    assert list(reader.read(0.01)) == []
    stream = f"fly:{{{APP}}}:outcomes:c1"
    assert raw_redis.xlen(stream) == 2  # of so few, which their records have too
    reader.remove_soon = True
    assert list(reader.read(0.01)) == []
    assert raw_redis.xlen(stream) == 0
    for number, size in ((MOST_TAKEN, 1), (1, MOST_TAKEN_BYTES)):
        for n in range(number):
            head = f"x{n} SUCCEEDED 1 m1 iad - 1 1 1"
            raw_redis.xadd(stream, {"head": head, "body": bytes(size)})
        assert len(list(reader.read(5.0))) == number
        assert list(reader.read(0.01)) == []
        assert raw_redis.xlen(stream) == 0
    reader.close()


def test_outcomes_that_are_stored_together_are_few_entries_with_all_of_them(store, raw_redis):
    few, many = [f"f{n}" for n in range(5)], [f"m{n}" for n in range(450)]
    reader = store.outcomes("c1")
    for ids, size, entries in ((few, 10, 1), (many, 10, 5), (few, 40_000, 3)):
        raw_redis.flushall()
        reader.rewind()
        enqueue(store, calls(*ids, keep=False))
        claimed = claim(store, len(ids))
        done = [Outcome(one.id, 1, State.FAILED, "m1", "iad", bytes(size), b"said") for one in claimed]
        store.finish("lane", "m1", "iad", done, Intake(0, 0, 1, ""))
        assert raw_redis.xlen(f"fly:{{{APP}}}:outcomes:c1") == entries
        told = list(reader.read(5.0))
        assert [outcome.id for outcome in told] == ids
        assert {(outcome.sealed, outcome.logs, outcome.attempt) for outcome in told} == {(bytes(size), b"said", 1)}
    reader.close()


@pytest.mark.parametrize("size", [INLINE_BYTES, INLINE_BYTES + 1, 2 * PIECE_BYTES + 1])
def test_large_payloads_travel_in_parts_and_leave_nothing(store, raw_redis, size):
    sealed = bytes(range(256)) * (size // 256) + bytes(size % 256)
    enqueue(store, calls("a", sealed=sealed, keep=False))
    (one,) = claim(store)
    assert one.sealed == sealed
    finish(store, one, sealed=sealed)
    reader = store.outcomes("c1")
    (outcome,) = reader.read(5.0)
    list(reader.read(0.01))
    reader.close()
    assert outcome.sealed == sealed
    if size > INLINE_BYTES:
        store.drop_outcome(outcome)
    left = {key.split(":")[2] for key in raw_redis.scan_iter(f"fly:{{{APP}}}:*")}
    assert left == {"starts", "outcomes", "sent", "load", "meter", "lanes", "workers", "claims"}


def test_every_key_has_a_time_to_live_and_the_hash_tag(store, raw_redis):
    store.join("lane", "m1", first=True)
    enqueue(store, calls("a", "b", sealed=bytes(INLINE_BYTES + 1)))
    finish(store, claim(store)[0], sealed=bytes(INLINE_BYTES + 1))
    keys = raw_redis.keys(f"fly:{{{APP}}}:*")
    assert len(keys) >= 6
    assert {key.split(":")[1] for key in keys} == {f"{{{APP}}}"}
    assert {key: raw_redis.ttl(key) for key in keys if raw_redis.ttl(key) <= 0} == {}


def test_who_submits_a_key_whose_call_has_ended_keeps_what_it_is_told_for_result_ttl(store, raw_redis):
    enqueue(store, calls("a"))
    finish(store, *claim(store))
    enqueue(store, calls("a", keyed=True), client="c2", result_ttl=60)
    assert 0 < raw_redis.ttl(store._key("outcomes", "c2")) <= 60


def test_a_call_that_is_there_under_another_id_of_its_key_is_that_one_and_is_told_once(store):
    enqueue(store, calls("a1"))
    again = [Call("b1", b"sealed", keyed=True, pointers=["x1proof", "a1proof", "c1proof"])]
    for _ in range(2):
        enqueue(store, again, client="c2")  # the second after a lost answer
    (claimed,) = claim(store, 5)
    assert (claimed.id, store.info("b1"), store.pointer("b1")) == ("a1", None, "a1proof")
    finish(store, claimed)
    told, outcome = news(store, "c2")
    assert told == Report("b1", 0, Report.SAME, 0, b"a1proof")
    assert (outcome.id, outcome.sealed) == ("a1", b"value")
    store._redis.delete(store._key("call", "a1"))
    store.enqueue(lane(), again, client="c2", result_ttl=60, reservation="c2.2")
    assert ([one.id for one in claim(store, 5)], store.pointer("b1")) == (["b1"], "")


def test_of_several_ids_that_a_key_points_to_the_first_that_is_there_counts_and_its_own_before_all(store, raw_redis):
    enqueue(store, calls("a1", "c1"))
    pointers = ["a1proof", "c1proof"]
    enqueue(store, [Call("b1", b"sealed", keyed=True, pointers=pointers)], client="c2")
    assert [(told.id, told.body) for told in news(store, "c2")] == [("b1", b"a1proof")]
    assert store.pointer("b1") == "a1proof"
    assert raw_redis.ttl(store._key("same", "b1")) > UNFINISHED_TTL
    enqueue(store, calls("d1"), client="c3")
    enqueue(store, [Call("d1", b"sealed", keyed=True, pointers=pointers)], client="c4")
    assert (store.pointer("d1"), news(store, "c4")) == ("", [])
    assert [one.id for one in claim(store, 9)] == ["a1", "c1", "d1"]


def test_what_is_sent_again_while_it_waits_keeps_what_it_was_given(store, raw_redis, small_parts):
    for _ in range(2):
        enqueue(store, calls("a", sealed=bytes(300)))
    assert len(list(raw_redis.scan_iter(f"fly:{{{APP}}}:piece:*"))) == 3
    (one,) = claim(store)
    assert one.sealed == bytes(300)


def test_who_is_taken_back_twice_is_taken_back(store):
    enqueue(store, calls("a", "b"))
    finish(store, *claim(store))
    assert [store.cancel(["a", "b"]) for _ in range(2)] == [["b"], ["b"]]


def test_calls_that_run_count_among_those_that_there_are_at_a_time(store):
    where = Lane("lane", {}, (), 10, 1, 60.0, load_window=100.0)
    for n, number in enumerate((2, 1)):
        some = calls(*(f"{n}{m}" for m in range(number)))
        store.enqueue(where, some, client="c1", result_ttl=60, reservation=f"c1.{n + 1}")
        if not n:
            running = claim(store, 2)
    store.cancel(["10"])
    for one in running:
        finish(store, one)
    store.leave("lane", "m1", must=True)
    assert workers_needed(store) == 3


def test_reservations_whose_answer_was_lost_are_answered_again(store):
    store.enqueue(lane(), calls("z"), client="c2", result_ttl=60, reservation="c1x1")
    first = enqueue(store, calls("a", "b"))
    assert len(first) == 2
    assert enqueue(store, calls("a", "b")) == first
    store.release(lane(), first[0])
    assert enqueue(store, calls("a", "b")) == first[1:]
    store.release(lane(), first[1])
    assert len(enqueue(store, calls("a", "b"))) == 2


def test_an_emptied_redis_is_told_apart(store, raw_redis):
    enqueue(store, calls("a"))
    raw_redis.flushall()
    assert store.standing(["a"]) == [False]
    assert claim(store) == []
    raw_redis.delete(f"fly:{{{APP}}}:workers:lane")
    with pytest.raises(RedisUnavailableError, match="buried"):
        store.claim("lane", "m1", "iad", Intake(1, 0, 1, ""))


def test_a_script_that_the_server_forgot_is_sent_again(store, raw_redis):
    enqueue(store, calls("a"))
    raw_redis.script_flush()
    assert [one.id for one in claim(store)] == ["a"]


def test_an_unreachable_redis_is_told_by_its_address_and_without_its_password():
    store = Store("redis://default:geheim@127.0.0.1:1/0", APP)
    with pytest.raises(RedisUnavailableError, match=r"redis://127\.0\.0\.1:1/0") as told:
        store.info("a")
    assert "geheim" not in str(told.value) + repr(store)
    assert not told.value.permanent


def test_a_wrong_password_is_permanent(redis_url):
    parts = redis.connection.parse_url(redis_url)
    store = Store(f"redis://:geheim@127.0.0.1:{parts['port']}/0", APP)
    with pytest.raises(RedisUnavailableError, match="refuses us: REDIS_URL has a wrong user or password") as told:
        store.info("a")
    assert told.value.permanent
    assert "geheim" not in str(told.value)


def test_a_reader_that_is_closed_by_another_thread_stops_waiting(store):
    reader = store.outcomes("c1")
    reader.ask(10.0)
    closer = threading.Timer(0.05, reader.close)
    closer.start()
    with pytest.raises(RedisUnavailableError):
        reader._receive()
    closer.join()


def test_an_entry_that_is_no_outcome_does_not_keep_the_next_from_being_read(store, raw_redis):
    raw_redis.xadd(f"fly:{{{APP}}}:outcomes:c1", {"id": "a", "state": "NONSENSE"})
    enqueue(store, calls("a"))
    finish(store, *claim(store))
    reader = store.outcomes("c1")
    assert [outcome.id for outcome in reader.read(5.0)] == ["a"]
    reader.close()


def test_outcomes_that_could_not_be_fetched_whole_are_read_again(store, monkeypatch):
    enqueue(store, calls("a"))
    finish(store, *claim(store), sealed=bytes(INLINE_BYTES + 1))
    reader = store.outcomes("c1")
    with monkeypatch.context() as away:
        away.setattr(store._bulk, "getrange", lambda *_: (_ for _ in ()).throw(redis.ConnectionError("away")))
        with pytest.raises(RedisUnavailableError):
            list(reader.read(5.0))
    assert [len(outcome.sealed) for outcome in reader.read(5.0)] == [INLINE_BYTES + 1]
    reader.close()


@pytest.mark.parametrize(
    "text", ["READONLY You can't write against a read only replica.", "BUSY Redis is busy", "LOADING"]
)
def test_a_server_that_fails_over_or_is_busy_is_not_permanent(store, monkeypatch, text):
    def refuse(*_):
        raise redis.ResponseError(text)

    monkeypatch.setattr(store._redis, "evalsha", refuse)
    with pytest.raises(RedisUnavailableError) as told:
        claim(store)
    assert not told.value.permanent


def test_a_worker_that_was_buried_gets_no_call_and_joins_again(store):
    wait_for_calls(store, "m1")
    assert bury(store, "m1") == 0
    enqueue(store, calls("a"))
    assert receive(store, "m1").calls == []
    with pytest.raises(RedisUnavailableError, match="buried"):
        store.claim("lane", "m1", "iad", Intake(5, 1, 1, ""))
    assert [one.id for one in claim(store, machine="m2")] == ["a"]


def test_creates_are_paced_for_all_clients_together(redis_url, raw_redis):
    stores = [Store(redis_url, APP) for _ in range(2)]
    waits = [stores[n % 2].pace_create(1.0, 3) for n in range(6)]
    assert waits[:3] == [0.0, 0.0, 0.0]
    assert [round(wait) for wait in waits[3:]] == [1, 2, 3]
    assert 1000 < raw_redis.pttl(f"fly:{{{APP}}}:creates") <= 7000
    for one in stores:
        one.close()


# Claims


def test_a_worker_that_wants_no_call_gets_none(store):
    enqueue(store, calls("a", "b"))
    assert claim(store, 0) == []
    (one,) = claim(store, 1)
    assert finish(store, one, more=0) == []
    assert store.info("b").state is State.QUEUED


def test_a_call_that_expired_before_its_claim_fails_and_does_not_run(store, raw_redis):
    enqueue(store, [Call("a", b"sealed", expires=0.001, expired=b"too late"), *calls("b")])
    before = raw_redis.time()
    while raw_redis.time() < (before[0], before[1] + 2000):
        pass  # Redis's clock must pass the millisecond
    assert [one.id for one in claim(store, 5)] == ["b"]
    outcome = store.attach("a", "c").outcome
    assert (outcome.state, outcome.attempt, outcome.sealed) == (State.FAILED, 0, b"too late")


def test_a_call_that_is_begun_in_time_does_not_expire_later(store, raw_redis):
    enqueue(store, [Call("a", b"sealed", 1, expires=1000.0, expired=b"too late")])
    assert 980 < store.tend_due("lane") <= 1000
    (one,) = claim(store)
    assert store.tend_due("lane") is None
    assert raw_redis.hmget(f"fly:{{{APP}}}:call:a", "expires", "expired") == [None, None]
    store.hand_back("lane", "m1", [one])
    assert [(again.id, again.attempt) for again in claim(store)] == [("a", 2)]


def test_a_claim_tells_what_the_worker_needs_to_know(store):
    join(store, "m1")
    parts = [Part("p1", b"one"), Part("p2", b"two")]
    for part in parts:
        store.put_part(part)
    enqueue(store, [Call("a", b"sealed", 1, parts=parts), *calls("b")])
    one, other = claim(store, 2)
    assert (one.losses, one.raised, one.parts) == (0, 0, parts)
    assert (other.losses, other.raised, other.parts) == (0, 0, [])
    store.retry("lane", one, 0.0)
    (again,) = claim(store)
    assert (again.attempt, again.raised) == (2, 1)


# What is lost


def test_what_runs_in_a_machine_that_is_no_worker_any_more_is_lost(store, raw_redis):
    enqueue(store, [Call("a", b"sealed", 0, bigger=("larger",))])
    claim(store)
    raw_redis.delete(f"fly:{{{APP}}}:workers:lane")
    store.look(lane(), "look")
    assert store.attach("a", "c").outcome.sealed == b"its machine is gone"


@pytest.mark.parametrize("oom", [True, False])
@pytest.mark.parametrize("retries", [0, 1])
def test_a_call_that_was_killed_is_killed_when_its_machine_is_buried(store, oom, retries):
    join(store, "m1")
    enqueue(store, [Call("a", b"sealed", retries, bigger=("larger",))])
    claim(store)
    store.kill("a")
    bury(store, "m1", oom=oom)
    outcome = store.attach("a", "c").outcome
    assert (outcome.state, outcome.attempt, outcome.machine_id, outcome.region) == (State.KILLED, 1, "m1", "iad")


@pytest.mark.parametrize("oom", [True, False])
def test_a_call_goes_to_a_larger_machine_if_its_own_was_buried_for_lack_of_memory(store, oom):
    join(store, "m1")
    enqueue(store, [Call("a", b"sealed", 1, bigger=("larger", "largest"))])
    claim(store)
    bury(store, "m1", oom=oom)
    assert store.info("a").lane == ("larger" if oom else "lane")
    assert [told.body for told in news(store)] == [b"larger"] if oom else store.meter("lane").queued == 1


def test_a_call_that_outgrows_each_machine_is_lost_with_the_last(store):
    enqueue(store, [Call("a", b"sealed", 5, bigger=("larger", "largest")), *calls("b")])
    for number, name in enumerate(["lane", "larger", "largest"], 1):
        assert store.info("a").lane == name
        store.join(name, "m1", first=True)
        (one,) = store.claim(name, "m1", "iad", Intake(1, 0, 1, "")).calls
        assert one.attempt == number
        store.outgrow(name, "m1", "iad", one, "too large", b"its logs")
        assert (store.meter(name).queued, store.meter(name).running) == (int(name == "lane"), 0)
    lost = store.attach("a", "c").outcome
    assert (lost.state, lost.attempt, lost.region) == (State.LOST, 3, "iad")
    assert (lost.sealed, lost.logs) == (b"oom: too large", b"its logs")
    moves = [(told.kind, told.attempt, told.number, told.body) for told in news(store)[:-1]]
    assert moves == [(Report.MOVED, 1, 0, b"larger"), (Report.MOVED, 2, 0, b"largest")]


def test_a_call_whose_machine_was_out_of_memory_and_has_none_that_is_larger_is_lost(store):
    join(store, "m1")
    enqueue(store, calls("a", retries=5))
    claim(store)
    bury(store, "m1", oom=True)
    outcome = store.attach("a", "c").outcome
    assert (outcome.sealed, outcome.region) == (b"oom: gone", "iad")


def test_a_worker_that_was_buried_finishes_its_call_and_gets_no_other(store):
    join(store, "m1")
    enqueue(store, calls("a", "b"))
    (one,) = claim(store)
    bury(store, "m1")
    assert finish(store, one, more=5) == []
    assert store.meter("lane").queued == 2


# What stays


def test_a_record_lives_as_long_as_its_result_ttl_and_no_longer_holds_what_the_call_was_given(store, raw_redis):
    enqueue(store, [Call("a", b"sealed", expires=1000.0, expired=b"too late")], result_ttl=60)
    assert UNFINISHED_TTL - 60 < raw_redis.ttl(f"fly:{{{APP}}}:call:a") <= UNFINISHED_TTL
    finish(store, *claim(store))
    assert 30 < raw_redis.ttl(f"fly:{{{APP}}}:call:a") <= 60
    assert raw_redis.hmget(f"fly:{{{APP}}}:call:a", "call", "expired") == ["", None]
    assert 30 < store.info("a").expires_at - time.time() <= 61


def test_a_large_outcome_lives_as_long_as_its_record(store, raw_redis, small_parts):
    enqueue(store, calls("a"), result_ttl=60)
    (one,) = claim(store)
    for _ in range(2):  # an answer may get lost
        finish(store, one, sealed=bytes(300))
        left = seconds_left(raw_redis, "piece")
        assert len(list(raw_redis.scan_iter(f"fly:{{{APP}}}:piece:*"))) == 3
        assert 30 < min(left) <= max(left) <= 60


def test_what_a_call_was_given_goes_when_it_ends_or_is_sent_again(store, raw_redis, small_parts):
    enqueue(store, calls("a", sealed=bytes(300)))
    assert min(seconds_left(raw_redis, "piece")) > 86400
    finish(store, *claim(store))
    assert seconds_left(raw_redis, "piece") == set()
    enqueue(store, calls("a", sealed=bytes(300)))  # its answer was lost
    assert seconds_left(raw_redis, "piece") == set()
    enqueue(store, calls("a", sealed=bytes(300), keyed=True), client="c2")  # another with the same key
    assert seconds_left(raw_redis, "piece") == set()


def test_what_a_second_client_sends_for_a_call_that_waits_goes_and_what_the_first_sent_stays(
    store, raw_redis, small_parts
):
    enqueue(store, calls("a", sealed=bytes(300)))
    enqueue(store, calls("a", sealed=bytes(300), keyed=True), client="c2")
    assert len(list(raw_redis.scan_iter(f"fly:{{{APP}}}:piece:*"))) == 3
    (one,) = claim(store)
    assert one.sealed == bytes(300)


@pytest.mark.parametrize("what", ["part", "body"])
def test_a_batch_is_refused_as_a_whole_if_something_large_is_no_longer_there(store, monkeypatch, what):
    parts = [Part("p", b"never stored")] if what == "part" else []
    batch = [*calls("b"), Call("a", b"sealed", 1, expires=1000.0, expired=b"by 12:30", parts=parts)]
    with monkeypatch.context() as away:
        if what == "body":
            away.setattr(store._records, "put", lambda *_: ("gone:1", b""))
        with pytest.raises(RedisUnavailableError, match="before the call came") as told:
            enqueue(store, batch)
    assert not told.value.permanent
    assert (store.info("a"), store.info("b"), store.meter("lane").queued) == (None, None, 0)
    for part in parts:
        store.put_part(part)
    enqueue(store, batch)
    assert store.meter("lane").queued == 2


def test_a_large_outcome_that_comes_late_goes(store, raw_redis, small_parts):
    enqueue(store, calls("a"))
    (early,) = claim(store)
    store.hand_back("lane", "m1", [early])
    finish(store, early, sealed=bytes(300))
    assert seconds_left(raw_redis, "piece") == set()
    finish(store, *claim(store), sealed=bytes(300))
    finish(store, early, sealed=bytes(200))
    assert len(list(raw_redis.scan_iter(f"fly:{{{APP}}}:piece:*"))) == 3


def test_a_large_outcome_that_is_sent_again_for_a_call_that_has_gone_is_there_for_a_day(store, raw_redis, small_parts):
    enqueue(store, calls("a", keep=False))
    (one,) = claim(store)
    finish(store, one, sealed=bytes(300))
    finish(store, one, sealed=bytes(300))  # its answer was lost
    assert max(seconds_left(raw_redis, "piece")) <= 86400
    (outcome,) = news(store)
    assert outcome.sealed == bytes(300)


def test_each_key_of_a_call_that_expires_is_retried_killed_or_in_a_batch_ends_by_itself(store, raw_redis):
    join(store, "m1", "m2")
    store.assign(lane(), "c1.1:1", "m3")
    enqueue(store, [Call(name, b"sealed", 1, expires=1000.0, bigger=("larger",)) for name in "abcd"])
    assert raw_redis.ttl(f"fly:{{{APP}}}:due:lane") > 0
    raw_redis.delete(f"fly:{{{APP}}}:due:lane")
    one, two, three = claim(store, 3)
    fields = "state lane queued attempt losses retries keep ttl watch pieces call name expires expired bigger"
    assert raw_redis.hgetall(f"fly:{{{APP}}}:call:d").keys() == set(fields.split())
    store.retry("lane", one, 60.0)
    store.outgrow("lane", "m1", "iad", two, "too large", b"")
    store.kill(three.id)
    store.report([Report(three.id, three.attempt, Report.PROGRESS, 0, b"half")])
    store.leave("lane", "m2", must=False, suspends=True)
    store.pace_create(1.0, 1)
    store.note_run("hourly", "d")
    keys = raw_redis.keys(f"fly:{{{APP}}}:*")
    kinds = {key.split(":")[2] for key in keys}
    assert kinds >= {"call", "due", "inbox", "queue", "claims", "starts", "outcomes", "lanes", "runs", "creates"}
    assert {key: raw_redis.ttl(key) for key in keys if raw_redis.ttl(key) < 0} == {}


# Who stays


def test_a_machine_is_suspended_when_it_is_its_turn(store, raw_redis, monkeypatch):
    monkeypatch.setattr("flyexecutor.store.calls.SUSPEND_EVERY", 100.0)
    join(store, "m1", "m2", "m3")
    assert store.leave("lane", "m1", must=False, suspends=True) is None
    second = store.leave("lane", "m2", must=False, suspends=True)
    third = store.leave("lane", "m3", must=False, suspends=True)
    assert (second.why, third.why) == ("turn", "turn")
    assert 80 < second.seconds <= 100
    assert 180 < third.seconds <= 200
    assert 280 < raw_redis.ttl(f"fly:{{{APP}}}:suspends") <= 300
    assert set(store.look(lane(), "look").workers) == {"m2", "m3"}
    assert store.leave("lane", "m2", must=False) is None  # it has waited
    assert store.leave("lane", "m3", must=True, suspends=True) is None


def test_a_worker_that_was_not_idle_for_long_leaves_only_if_fewer_would_do(store):
    join(store, "m1", "m2", "m3")
    enqueue(store, calls("a", "b"))
    for one in claim(store, 2):
        finish(store, one)
    assert store.leave("lane", "m1", must=False, idle_left=5.0) is None
    for left in (5.0, 0.001):
        assert store.leave("lane", "m2", must=False, idle_left=left) == Stay(left, "needed")
    assert store.leave("lane", "m2", must=False, idle_left=5.0, concurrency=2) is None
    assert store.leave("lane", "m3", must=False, idle_left=5.0, concurrency=2) == Stay(5.0, "needed")
    assert store.leave("lane", "m3", must=False) is None


def test_a_worker_stays_for_a_call_that_is_soon_due(store):
    join(store, "m1")
    enqueue(store, calls("a"))
    store.retry("lane", *claim(store), 100.0)
    stays = store.leave("lane", "m1", must=False, soon=200.0)
    assert (stays.why, 80 < stays.seconds <= 100) == ("due", True)
    assert store.leave("lane", "m1", must=False, soon=10.0) is None


@pytest.mark.parametrize(("reason", "state"), [("", State.QUEUED), ("its runners do not start", State.LOST)])
def test_a_worker_that_leaves_hands_back_what_it_holds_or_loses_it_for_a_reason(store, reason, state):
    join(store, "m1")
    enqueue(store, calls("a", retries=0))
    claim(store)
    assert store.leave("lane", "m1", must=True, reason=reason) is None
    assert store.info("a").state is state
    if reason:
        assert store.attach("a", "c").outcome.sealed == reason.encode()


def test_a_worker_that_leaves_brings_no_call_back_whose_record_has_expired(store, raw_redis):
    join(store, "m1")
    enqueue(store, calls("a"))
    claim(store)
    raw_redis.delete(f"fly:{{{APP}}}:call:a")
    store.leave("lane", "m1", must=True)
    assert (store.info("a"), store.meter("lane").queued) == (None, 0)


def test_a_worker_may_leave_an_emptied_redis(store):
    assert store.leave("lane", "m1", must=False) is None


def test_a_suspended_worker_joins_again_once_somebody_has_started_its_machine(store):
    join(store, "m1")
    store.leave("lane", "m1", must=True)
    assert not store.join_if_started("lane", "m1")
    assert not store.is_worker("lane", "m1")
    (reservation,) = enqueue(store, calls("a"))
    assert store.assign(lane(), reservation, "m1")
    assert store.join_if_started("lane", "m1")
    assert store.is_worker("lane", "m1")
    assert store.join_if_started("lane", "m1"), "the first answer may be lost"
    assert store.look(lane(), "look").starts == set()
    assert [one.id for one in claim(store)] == ["a"]


def test_a_worker_is_spare_when_fewer_would_have_done_of_late(store):
    join(store, "m1", "m2")
    enqueue(store, calls("a"))
    (one,) = claim(store)
    outcome = Outcome(one.id, one.attempt, State.SUCCEEDED, "m1", "iad", b"value")
    assert store.finish("lane", "m1", "iad", [outcome], Intake(1, 0, 1, "")).spare
    store.leave("lane", "m2", must=True)
    assert not store.finish("lane", "m1", "iad", [outcome], Intake(1, 0, 1, "")).spare
    assert not store.finish("lane", "m2", "iad", [outcome], Intake(1, 0, 1, "")).spare


def test_the_last_worker_is_not_spare_right_after_a_call_however_long_that_was(store, raw_redis):
    join(store, "m1")
    enqueue(store, calls("a"))
    (one,) = claim(store)
    raw_redis.hincrby(f"fly:{{{APP}}}:load:lane", "at", -1_000_000_000)
    outcome = Outcome(one.id, one.attempt, State.SUCCEEDED, "m1", "iad", b"value")
    assert not store.finish("lane", "m1", "iad", [outcome], Intake(1, 0, 1, "")).spare


def test_a_worker_that_got_a_call_is_not_spare(store):
    join(store, "m1", "m2", "m3")
    enqueue(store, calls("a", "b"))
    (one,) = claim(store)
    outcome = Outcome(one.id, one.attempt, State.SUCCEEDED, "m1", "iad", b"value")
    told = store.finish("lane", "m1", "iad", [outcome], Intake(1, 0, 1, ""))
    assert ([call.id for call in told.calls], told.spare) == (["b"], False)


def workers_needed(store, concurrency=1):
    """How many of five stay when each leaves that is spare."""
    machines = [f"w{n}" for n in range(5)]
    join(store, *machines)
    told = [
        store.leave("lane", one, must=False, idle_left=5.0, concurrency=concurrency, suspends=False) for one in machines
    ]
    return len(machines) - told.count(None)


def test_as_many_workers_are_needed_as_there_were_calls_at_a_time_in_this_window_and_the_last(store, raw_redis):
    where = Lane("lane", {}, (), 10, 1, 60.0, load_window=100.0)
    named = iter(range(1000))

    def come_and_go(number):
        some = calls(*(f"a{next(named)}" for _ in range(number)))
        store.enqueue(where, some, client="c1", result_ttl=60, reservation=some[0].id)
        store.cancel([one.id for one in some])

    def pass_time(seconds):
        raw_redis.hincrby(f"fly:{{{APP}}}:load:lane", "at", -1000 * seconds)

    come_and_go(3)
    assert (workers_needed(store), workers_needed(store, concurrency=2)) == (3, 2)
    come_and_go(4)
    come_and_go(1)
    assert workers_needed(store) == 4
    pass_time(150)
    assert workers_needed(store) == 4
    come_and_go(1)
    pass_time(50)
    assert workers_needed(store) == 4
    pass_time(100)
    assert workers_needed(store) == 1
    come_and_go(2)
    pass_time(250)
    assert workers_needed(store) == 0
    come_and_go(2)
    assert workers_needed(store) == 2
    pass_time(300)
    store.enqueue(where, calls("a0", keyed=True), client="c2", result_ttl=60, reservation="again")  # it has ended
    assert workers_needed(store) == 0


def test_what_machines_cost_and_what_ran_on_them_is_metered(store, raw_redis):
    def clock():
        seconds, microseconds = raw_redis.time()
        return seconds + microseconds / 1e6

    enqueue(store, calls("a"))
    begun = clock()
    assert store.assign(lane(), "c1.1:1", "m1")
    opened = clock()
    join(store, "m1")
    (one,) = claim(store)
    while clock() < opened + 0.02:
        pass
    finish(store, one)
    ran = clock() - begun
    while clock() < opened + 0.04:
        pass
    meter = store.meter("lane")
    assert (meter.calls, meter.starts, meter.workers, meter.starting) == (1, 1, 1, 0)
    assert 0 < meter.useful_seconds <= ran + 0.002
    assert meter.billed_seconds > 0.035
    store.leave("lane", "m1", must=True)
    left = clock() - begun
    assert 0.035 < store.meter("lane").billed_seconds <= left + 0.002
    join(store, "m1")
    bury(store, "m1")
    assert store.meter("lane").starts == 2
    assert 0.035 < store.meter("lane").billed_seconds <= clock() - begun + 0.002
    assert raw_redis.hlen(f"fly:{{{APP}}}:awake:lane") == 0


def test_a_machine_whose_starter_died_and_that_never_joined_is_billed_as_long_as_it_was_awaited(store, raw_redis):
    (reservation,) = enqueue(store, calls("a"))
    store.assign(lane(boot_timeout=1.0 - GIVE_UP_WITHIN), reservation, "m1")
    while store.look(lane(), "other").starts >= {"m1"}:  # it is dropped there when its time is over
        assert store.meter("lane").billed_seconds <= 1.0
    assert store.meter("lane").billed_seconds == 1.0
    assert raw_redis.hgetall(store._key("awake", "lane")) == {}


def test_a_machine_that_is_started_again_after_its_start_was_given_up_is_billed_for_both(store, raw_redis):
    first, second = enqueue(store, calls("a", "b"))
    assert store.assign(lane(), first, "m1")
    raw_redis.hincrby(f"fly:{{{APP}}}:awake:lane", "m1", -10_000)
    raw_redis.zadd(f"fly:{{{APP}}}:starts:lane", {"m1": int(time.time() * 1000)})  # it did not come in time
    store.look(lane(), "look")
    assert store.assign(lane(), second, "m1")
    raw_redis.hincrby(f"fly:{{{APP}}}:awake:lane", "m1", -5_000)
    assert 15 <= store.meter("lane").billed_seconds < 25
    assert store.meter("lane").starts == 2
    store.release(lane(), "m1")
    raw_redis.zrem(f"fly:{{{APP}}}:starts:lane", "m1")
    assert 15 <= store.meter("lane").billed_seconds < 25
    assert raw_redis.hlen(f"fly:{{{APP}}}:awake:lane") == 0


def test_a_machine_whose_start_is_forgotten_is_billed_for_that_and_for_the_next(store, raw_redis):
    first, second = enqueue(store, calls("a", "b"))
    store.assign(lane(), first, "m1")
    raw_redis.hincrby(f"fly:{{{APP}}}:awake:lane", "m1", -10_000)
    raw_redis.delete(f"fly:{{{APP}}}:starts:lane")
    store.assign(lane(), second, "m1")
    assert 10 <= store.meter("lane").billed_seconds < 15


def test_a_machine_is_counted_on_for_as_long_as_it_may_boot_and_a_reservation_for_less(store, raw_redis):
    (reservation,) = enqueue(store, calls("a"))

    def counted(name):
        return raw_redis.zscore(f"fly:{{{APP}}}:starts:lane", name) / 1000 - raw_redis.time()[0]

    assert RESERVATION_TTL - 9 < counted(reservation) <= RESERVATION_TTL + 1
    store.assign(lane(boot_timeout=100.0), reservation, "m1")
    assert 80 + GIVE_UP_WITHIN < counted("m1") <= 101 + GIVE_UP_WITHIN
    assert store.look(lane(), "look", ["nobody's"]).starts == {"m1"}
    assert store.meter("lane").starting == 1
    raw_redis.zadd(f"fly:{{{APP}}}:starts:lane", {"m1": 1})
    assert store.meter("lane").starting == 0
    assert store.look(lane(), "look").starts == {"look:1"}
    store.release(lane(), "look:1")
    assert store.meter("lane").starting == 0


def test_a_fleet_is_told_when_something_is_due_and_has_it_queued(store, raw_redis):
    assert store.look(lane(), "look").due is None
    enqueue(store, calls("a"))
    store.retry("lane", *claim(store), 100.0)
    assert 80 < store.look(lane(), "look").due <= 100
    assert (store.info("a").state, store.meter("lane").queued) == (State.QUEUED, 0)
    for _ in range(2):  # what waits already is not queued twice
        raw_redis.zadd(f"fly:{{{APP}}}:due:lane", {"r a": 1})
        assert store.look(lane(), "look").due is None
        assert store.meter("lane").queued == 1


def test_a_call_that_is_cancelled_while_it_waits_for_its_retry_leaves_nothing(store, raw_redis):
    enqueue(store, [Call("a", b"sealed", 1, expires=1000.0, expired=b"too late")])
    store.retry("lane", *claim(store), 100.0)
    assert store.cancel(["a"]) == ["a"]
    ended = store.attach("a", "c").outcome
    assert (ended.attempt, ended.machine_id, store.info("a").attempt) == (0, "", 0)
    enqueue(store, [Call("b", b"sealed", 1, expires=1000.0, expired=b"too late")], client="c2")
    assert store.cancel(["b"]) == ["b"]
    assert store.tend_due("lane") is None


def test_what_a_running_call_says_is_told_and_kept_as_its_kind_demands(store):
    enqueue(store, calls("a"))
    (one,) = claim(store)
    store.attach("a", "c2")
    for kind, waiting in ((Report.PROGRESS, 1), (Report.ITEM, 2), (Report.LOGS, 0)):
        assert store.report([Report("a", one.attempt, kind, 7, kind.encode())]) == waiting
    assert store.report([Report("a", one.attempt + 1, Report.PROGRESS, 0, b"late")]) == 0
    assert store.attach("a", "c2").progress == b"progress"
    assert store.logs("a") == b"logs"
    for client in ("c1", "c2"):
        told = [(said.id, said.attempt, said.kind, said.number, said.body) for said in news(store, client)]
        assert told == [("a", 1, "progress", 7, b"progress"), ("a", 1, "item", 7, b"item")]


def test_what_is_large_of_what_a_call_says_lives_as_long_as_its_record_and_goes_if_it_comes_late(
    store, raw_redis, small_parts
):
    enqueue(store, calls("a"), result_ttl=60)
    (one,) = claim(store)
    store.report([Report("a", one.attempt + 1, Report.ITEM, 0, bytes(300))])
    assert seconds_left(raw_redis, "piece") == set()
    store.report([Report("a", one.attempt, Report.ITEM, 0, bytes(300))])
    assert 30 < min(seconds_left(raw_redis, "piece")) <= max(seconds_left(raw_redis, "piece")) <= 60
    assert not raw_redis.hexists(f"fly:{{{APP}}}:call:a", "item")


def test_logs_are_told_with_a_failure_and_not_with_a_success(store):
    enqueue(store, calls("a", "b"))
    for one, state in zip(claim(store, 2), (State.SUCCEEDED, State.FAILED), strict=True):
        outcome = Outcome(one.id, one.attempt, state, "m1", "iad", b"value", b"printed")
        store.finish("lane", "m1", "iad", [outcome], Intake(0, 0, 1, ""))
    assert [told.logs for told in news(store)] == [b"", b"printed"]
    assert (store.logs("a"), store.attach("a", "c").outcome.logs) == (b"printed", b"printed")
    enqueue(store, calls("a", "b", keyed=True), client="c2")  # with the keys of calls that have ended
    assert [told.logs for told in news(store, "c2")] == [b"", b"printed"]


def test_an_outcome_is_told_with_where_and_when_it_ran(store):
    enqueue(store, calls("a", "b"))
    store.cancel(["b"])
    finish(store, *claim(store))
    enqueue(store, calls("a", "b", keyed=True), client="c2")
    for client in ("c1", "c2"):
        told = {outcome.id: outcome for outcome in news(store, client)}
        assert (told["a"].state, told["a"].attempt, told["a"].sealed) == (State.SUCCEEDED, 1, b"value")
        assert (told["a"].machine_id, told["a"].region) == ("m1", "iad")
        assert told["a"].times == store.info("a").times
        assert 0 < told["a"].times.queued <= told["a"].times.started <= told["a"].times.finished
        assert (told["b"].state, told["b"].machine_id, told["b"].region) == (State.CANCELLED, "", "")
        assert told["b"].times.started == store.attach("b", "c").outcome.times.started == 0.0


def test_the_lanes_that_had_a_call_are_known_for_a_month(store, raw_redis):
    raw_redis.zadd(f"fly:{{{APP}}}:lanes", {"old": (raw_redis.time()[0] - 29 * 86400) * 1000})
    raw_redis.zadd(f"fly:{{{APP}}}:lanes", {"older": (raw_redis.time()[0] - 31 * 86400) * 1000})
    enqueue(store, calls("a"))
    assert store.lanes_since(60) == {"lane"}
    assert store.lanes_since(90 * 86400) == {"lane", "old"}


def test_an_order_to_kill_is_given_once_to_the_machine_that_runs_the_call(store, raw_redis):
    enqueue(store, calls("a", "b"))
    claim(store)
    assert [store.kill(name) for name in "aab"] == [State.RUNNING, State.RUNNING, State.QUEUED]
    assert receive(store, "m1").kills == ["a"]
    assert [store.kill(name) for name in ("b", "nowhere")] == [State.CANCELLED, None]
    enqueue(store, calls("c"), client="c2")
    finish(store, *claim(store))
    assert store.kill("c") is State.SUCCEEDED
    assert raw_redis.keys(f"fly:{{{APP}}}:inbox:*") == [f"fly:{{{APP}}}:inbox:m1"]
    assert raw_redis.xlen(f"fly:{{{APP}}}:inbox:m1") == 1
    assert 0 < raw_redis.ttl(f"fly:{{{APP}}}:inbox:m1") <= UNFINISHED_TTL


def test_a_call_that_raised_and_was_killed_meanwhile_is_not_tried_again(store):
    enqueue(store, [Call("a", b"sealed", 1, bigger=("larger",)), *calls("b")])
    for one, verb in zip(claim(store, 2), ("retry", "outgrow"), strict=True):
        store.kill(one.id)
        if verb == "retry":
            store.retry("lane", one, 100.0)
        else:
            store.outgrow("lane", "m1", "iad", one, "too large", b"")
        assert store.info(one.id).state is State.KILLED


def test_what_is_used_again_lives_on(store, raw_redis):
    def age():
        for key in raw_redis.scan_iter(f"fly:{{{APP}}}:*", count=1000):
            raw_redis.expire(key, 60)

    def lives_on(*kinds):
        return {kind for kind in kinds if raw_redis.ttl(f"fly:{{{APP}}}:{kind}") > 3600} == set(kinds)

    enqueue(store, calls("a", "b", "c"))
    age()
    raw_redis.hset(f"fly:{{{APP}}}:load:lane", mapping={"at": 0, "noted": 0})  # a window later, and a minute
    enqueue(store, calls("d", "e"), client="c2")
    assert lives_on("queue:lane", "lanes", "load:lane", "starts:lane")
    age()
    assert store.assign(lane(), "c1.1:1", "m1")
    assert lives_on("starts:lane", "meter:lane", "awake:lane")
    join(store, "m1")
    age()
    join(store, "m1", "m2")
    assert lives_on("workers:lane", "awake:lane", "meter:lane")
    one, two = claim(store, 2)
    store.retry("lane", one, 100.0)
    store.kill("b")
    age()
    finish(store, two)
    assert lives_on("meter:lane")
    for again in claim(store, 2):
        store.retry("lane", again, 100.0)
        store.kill(again.id)
    assert lives_on("due:lane")
    (last,) = claim(store)
    store.kill(last.id)
    assert lives_on("inbox:m1")


def test_the_only_start_of_a_lane_ends_by_itself(store, raw_redis):
    (reservation,) = enqueue(store, calls("a"))
    store.assign(lane(), reservation, "m1")
    assert 0 < raw_redis.ttl(f"fly:{{{APP}}}:starts:lane") <= 86400


def test_a_call_that_can_have_no_machine_fails_with_what_the_fleet_says(store):
    enqueue(store, calls("a", "b", "c"))
    claim(store)
    store.fail("lane", [("a", b"no machine"), ("b", b"none"), ("c", b"none at all")])
    assert store.info("a").state is State.RUNNING
    ended = [store.attach(name, "c2").outcome for name in "bc"]
    assert [(one.state, one.attempt, one.sealed) for one in ended] == [
        (State.FAILED, 0, b"none"),
        (State.FAILED, 0, b"none at all"),
    ]


def test_an_outcome_is_late_if_its_call_runs_again_and_not_if_it_was_sent_twice(store):
    join(store, "m1")
    enqueue(store, [Call(name, b"sealed", keep=name != "b") for name in "abcde"])
    claimed = {one.id: one for one in claim(store, 5)}
    ended = [Outcome(name, 1, State.SUCCEEDED, "m1", "iad", b"value") for name in "abcde"]
    store.hand_back("lane", "m1", [claimed["c"], claimed["d"]])
    claim(store)  # c, once more; d waits
    store.kill("e")
    store.hand_back("lane", "m1", [claimed["e"]])  # KILLED
    for _ in range(2):
        told = store.finish("lane", "m1", "iad", ended, Intake(0, 0, 1, ""))
        assert {ended[n].id for n in told.late} == {"c", "d"}


def test_what_is_sent_to_redis_is_metered_once_it_is_worth_it(store):
    enqueue(store, calls("a", "b", "c"))
    join(store, "m1")
    for size, sent in ((40_000, 0), (40_000, 80), (1000, 80)):
        (one,) = claim(store)
        finish(store, one, sealed=bytes(size))
        assert store.meter("lane").sent_bytes // 1000 == sent


def test_who_comes_with_the_key_of_a_call_later_has_its_progress_once(store):
    def heard(client):
        told = news(store, client)
        return [(one.kind, one.body) if isinstance(one, Report) else one.sealed for one in told]

    enqueue(store, calls("a", "b"))
    one, other = claim(store, 2)
    store.report([Report("a", one.attempt, Report.PROGRESS, 0, b"half")])
    enqueue(store, calls("a", keyed=True), client="c2")  # while it runs
    enqueue(store, calls("a", keyed=True), client="c2")  # again, since the answer was lost
    assert heard("c2") == [("progress", b"half")]
    finish(store, one)
    finish(store, other)
    store.enqueue(lane(), calls("b", "a", keyed=True), client="c3", result_ttl=60, reservation="c3.1")
    assert heard("c3") == [b"value", ("progress", b"half"), b"value"]


def test_a_lane_of_which_nothing_is_known_costs_nothing(store):
    meter = store.meter("lane")
    assert (meter.queued, meter.running, meter.workers, meter.starting) == (0, 0, 0, 0)
    assert (meter.billed_seconds, meter.useful_seconds) == (0.0, 0.0)
    assert (meter.calls, meter.starts, meter.sent_bytes) == (0, 0, 0)


def test_a_lane_has_one_worker_for_so_many_calls_and_no_more_than_its_limit(store):
    assert len(enqueue(store, calls(*"abc"), where=lane(5, concurrency=2))) == 2
    assert len(enqueue(store, calls(*"defghijklmnop"), client="c2", where=lane(5, concurrency=2))) == 3
    join(store, "m1", "m2", "m3", "m4", "m5", "m6")
    assert store.look(lane(5, concurrency=2), "look").reservations == []


# What is large, and what many share


def test_what_calls_share_is_kept_until_the_last_of_them_has_ended(store, raw_redis, small_parts):
    part = Part("p", bytes(300))
    store.put_part(part)
    assert max(seconds_left(raw_redis, "piece")) <= UNTAKEN_TTL + 3 * PIECE_TTL
    enqueue(store, [Call(name, b"sealed", parts=[part]) for name in "ab"])
    one, two = claim(store, 2)
    assert [shared.sealed for shared in one.parts] == [bytes(300)]
    finish(store, one)
    assert min(seconds_left(raw_redis, "piece") | seconds_left(raw_redis, "uses")) > 86400
    finish(store, two)
    assert 200 < min(seconds_left(raw_redis, "piece")) <= max(seconds_left(raw_redis, "piece")) <= 300
    assert seconds_left(raw_redis, "uses") == set()
    store.put_part(part)
    enqueue(store, [Call("c", b"sealed", parts=[part])], client="c2")
    assert min(seconds_left(raw_redis, "piece") | seconds_left(raw_redis, "uses")) > 86400


def test_what_calls_share_is_sent_again_only_if_it_is_not_there(store, raw_redis, small_parts):
    part = Part("p", bytes(300))
    first, last = f"fly:{{{APP}}}:piece:p:1", f"fly:{{{APP}}}:piece:p:3"
    store.put_part(part)
    raw_redis.set(first, "as it was", ex=20)
    raw_redis.expire(last, 86400)
    store.put_part(part)
    assert raw_redis.get(first) == "as it was"
    assert 200 < raw_redis.ttl(first) <= UNTAKEN_TTL
    assert raw_redis.ttl(last) > 3600
    raw_redis.delete(last)
    store.put_part(part)
    assert raw_redis.get(first) != "as it was"
    assert raw_redis.exists(last)


@pytest.mark.parametrize(("size", "keep", "told"), [(16384, True, 16384), (16385, True, 0), (16385, False, 16385)])
def test_a_body_that_the_record_keeps_is_told_to_each_only_if_it_is_small(store, raw_redis, size, keep, told):
    enqueue(store, calls("a", keep=keep))
    store.attach("a", "c2")
    finish(store, *claim(store), sealed=bytes(size))
    if keep:
        enqueue(store, calls("a", keyed=True), client="c3")  # with the same key
    for client in ("c1", "c2", "c3")[: 2 + keep]:
        ((_, fields),) = raw_redis.xrange(f"fly:{{{APP}}}:outcomes:{client}")
        assert len(fields["body"]) == told
        (outcome,) = news(store, client)
        assert outcome.sealed == bytes(size)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_what_a_client_is_told_is_kept_as_long_as_the_call_of_it_that_is_kept_for_longest(store, raw_redis, order):
    enqueue(store, calls("a"), client="c1", result_ttl=60)
    enqueue(store, calls("b"), client="c2", result_ttl=600)
    store.attach("a", "c2")
    store.attach("b", "c1")
    claimed = {one.id: one for one in claim(store, 2)}
    for name in order:
        finish(store, claimed[name])
    for client in ("c1", "c2"):
        assert 500 < raw_redis.ttl(f"fly:{{{APP}}}:outcomes:{client}") <= 600


@pytest.mark.parametrize("keyed", [True, False])
def test_a_call_tells_sixteen_clients_at_most_and_whoever_submitted_it(store, raw_redis, keyed):
    enqueue(store, calls("a"))
    for number in (*range(2, 18), 17, 1):
        if keyed:
            enqueue(store, calls("a", keyed=True), client=f"c{number}")
        else:
            store.attach("a", f"c{number}")
    finish(store, *claim(store))
    told = {number: raw_redis.xlen(f"fly:{{{APP}}}:outcomes:c{number}") for number in range(1, 18)}
    assert told == {number: int(number != 2) for number in range(1, 18)}


def test_a_call_without_a_record_tells_all_who_watch_it(store, raw_redis):
    enqueue(store, calls("a", keep=False))
    for number in range(2, 19):
        store.attach("a", f"c{number}")
    finish(store, *claim(store))
    assert {raw_redis.xlen(f"fly:{{{APP}}}:outcomes:c{number}") for number in range(1, 19)} == {1}


def test_calls_are_asked_for_in_one_trip_and_answered_in_order(store):
    enqueue(store, calls("a", "b", "c"))
    store.cancel(["b"])
    claim(store)
    assert store.standing(["b", "nowhere", "a", "c"]) == [False, False, True, True]


def test_the_queue_counts_what_waits_and_what_runs_and_nothing_else(store, raw_redis):
    def counts():
        meter = store.meter("lane")
        return meter.queued, meter.running

    enqueue(store, calls(*"abcdefg"))
    one, two, three, four = claim(store, 4)
    assert counts() == (3, 4)
    finish(store, one)
    assert counts() == (3, 3)
    store.retry("lane", two, 100.0)
    assert counts() == (3, 2)
    store.hand_back("lane", "m1", [three])
    assert counts() == (4, 1)
    raw_redis.hdel(f"fly:{{{APP}}}:claims:lane", four.id)
    join(store, "m1")
    assert counts() == (4, 0)
    raw_redis.delete(f"fly:{{{APP}}}:call:e", f"fly:{{{APP}}}:call:f")  # they have expired
    assert [again.id for again in claim(store, 2)] == ["g", "c"]
    assert counts() == (0, 2)


def test_a_name_costs_no_command(store, raw_redis):
    def commands(client, name):
        raw_redis.config_resetstat()
        enqueue(store, [Call(f"{client}{n}", b"sealed", name=name) for n in range(10)], client=client)
        assert [one.name for one in claim(store, 10)] == [name] * 10
        return {command: told["calls"] for command, told in raw_redis.info("commandstats").items()}

    commands("c1", "")  # loads the scripts
    assert commands("c2", "") == commands("c3", "resize")


@pytest.mark.parametrize("raised", [OSError(9, "Bad file descriptor"), ValueError("closed"), AttributeError("recv")])
def test_a_reader_that_is_closed_while_it_connects_can_not_reach_redis(store, monkeypatch, raised):
    reader = store.outcomes("c1")
    monkeypatch.setattr(reader._connection, "connect", Mock(side_effect=raised))  # its socket has gone from under it
    with pytest.raises(RedisUnavailableError):
        reader.ask(1.0)


# What lies in Redis for a lane, and lives on with it


def test_claims_and_places_live_on_while_they_are_used_and_no_longer(store, raw_redis):
    def ttl(kind):
        return raw_redis.ttl(f"fly:{{{APP}}}:{kind}:lane")

    join(store, "m1")
    for n in range(2):
        enqueue(store, calls(f"a{n}"), client=f"c{n}")
        (one,) = store.claim("lane", "m1", "iad", Intake(1, 1, 1, "")).calls
        finish(store, one)
        store.claim("lane", "m1", "iad", Intake(1, 1, 1, ""))  # notes a place
        assert min(ttl("claims"), ttl("places")) > UNFINISHED_TTL - 60
        raw_redis.delete(f"fly:{{{APP}}}:claims:lane", f"fly:{{{APP}}}:places:lane")
    store.claim("lane", "m1", "iad", Intake(2, 2, 2, ""))
    enqueue(store, calls("b"), client="c3")  # takes a place
    assert (ttl("claims") > 0, ttl("places") > 0) == (True, True)
    assert store.meter("lane").running == 1
    for kind in ("claims", "places"):
        raw_redis.expire(f"fly:{{{APP}}}:{kind}:lane", 60)
    raw_redis.hset(f"fly:{{{APP}}}:load:lane", "noted", 0)  # a minute later
    enqueue(store, calls("c"), client="c4")
    assert min(ttl("claims"), ttl("places")) > UNFINISHED_TTL - 60


def test_a_lane_is_noted_as_used_once_a_minute(store, raw_redis):
    enqueue(store, calls("a"), client="c1")
    raw_redis.zadd(f"fly:{{{APP}}}:lanes", {"lane": 1})
    enqueue(store, calls("b"), client="c2")
    assert store.lanes_since(60) == set()
    for noted in ("0", "junk", str(10**15)):  # a minute ago, damaged, by a clock that was ahead
        raw_redis.hset(f"fly:{{{APP}}}:load:lane", "noted", noted)
        enqueue(store, calls(f"c{noted}"), client=f"d{noted}")
        assert store.lanes_since(60) == {"lane"}
        raw_redis.zadd(f"fly:{{{APP}}}:lanes", {"lane": 1})


# A bundle that comes late


def test_a_bundle_that_comes_again_behind_others_stores_nothing_and_grants_nothing(store, raw_redis):
    def send(call_id, number, client="c1"):
        return store.enqueue(lane(), calls(call_id), client=client, result_ttl=60, reservation=f"{client}.{number}")

    send("a", 1)
    send("b", 2)
    (one, two) = claim(store, 2)
    finish(store, one)
    before = store.info("a").times, store.look(lane(), "look").starts
    assert send("a", 1).resting == []  # the first, which was held up on its way
    assert (store.info("a").times, store.look(lane(), "look").starts) == before
    assert raw_redis.get(f"fly:{{{APP}}}:sent:c1").split()[0] == "c1.2"
    send("a3", 10)
    send("late", 9)
    assert (store.info("a3").state, store.info("late")) == (State.QUEUED, None)
    assert send("x", 1, client="c")  # another client, though its name begins alike
    assert store.info("x").state is State.QUEUED
    finish(store, two)


@pytest.mark.parametrize("noted", ["c2.99", "junk", "c1.x", "c1.", "c1.-5", "c1.1e9", ""])
def test_what_is_no_bundle_of_this_client_holds_up_none(store, raw_redis, noted):
    raw_redis.set(f"fly:{{{APP}}}:sent:c1", noted)
    store.enqueue(lane(), calls("a"), client="c1", result_ttl=60, reservation="c1.3")
    assert store.info("a").state is State.QUEUED


# What small changes of the scripts would do, and nobody noticed


@pytest.mark.parametrize(("field", "value"), [("attempt", "x"), ("attempt", "-1"), ("state", "nonsense")])
def test_an_outcome_of_a_call_whose_record_is_damaged_ends_it_and_is_not_late(
    store, raw_redis, small_parts, field, value
):
    enqueue(store, calls("a"))
    (one,) = claim(store)
    raw_redis.hset(f"fly:{{{APP}}}:call:a", field, value)
    outcome = Outcome("a", one.attempt, State.SUCCEEDED, "m1", "iad", bytes(300))
    told = store.finish("lane", "m1", "iad", [outcome], Intake(0, 0, 1, ""))
    assert (told.late, store.info("a").state) == (frozenset(), State.FAILED)
    assert list(raw_redis.scan_iter(f"fly:{{{APP}}}:piece:*")) == []
    (damaged,) = news(store)
    shown = {"attempt": f"RUNNING {value}", "state": "nonsense 1"}[field]
    assert damaged.sealed.decode() == f'damaged: its state or attempt is "{shown}"'


def test_a_window_that_begins_with_an_outcome_counts_the_calls_that_run_on(store, raw_redis):
    where = Lane("lane", {}, (), 10, 1, 60.0, load_window=100.0)
    store.enqueue(where, calls(*"abcd"), client="c1", result_ttl=60, reservation="c1.1")
    first, *others = claim(store, 4)
    raw_redis.hincrby(f"fly:{{{APP}}}:load:lane", "at", -300_000)
    for one in (first, *others):
        finish(store, one)
    store.leave("lane", "m1", must=True)
    assert workers_needed(store) == 3


def test_an_inbox_is_empty_when_its_worker_joins_and_ends_by_itself(store, raw_redis):
    for first in (True, False):
        store.join("lane", "m1", first=first)
        inbox = f"fly:{{{APP}}}:inbox:m1"
        assert (raw_redis.exists(inbox), raw_redis.xlen(inbox)) == (1, 0)
        assert UNFINISHED_TTL - 60 < raw_redis.ttl(inbox) <= UNFINISHED_TTL
        raw_redis.expire(inbox, 60)


def test_a_call_that_is_killed_before_it_ran_has_no_attempt(store):
    enqueue(store, calls("a"))
    assert store.kill("a") is State.QUEUED
    (told,) = news(store)
    assert (told.state, told.attempt, store.info("a").attempt) == (State.CANCELLED, 0, 0)


def test_a_worker_that_has_left_has_no_inbox(store, raw_redis):
    join(store, "m1")
    store.leave("lane", "m1", must=True)
    assert raw_redis.exists(f"fly:{{{APP}}}:inbox:m1") == 0


def test_a_call_that_was_to_be_killed_is_killed_though_nobody_can_read_its_attempt(store, raw_redis):
    enqueue(store, calls("a"))
    claim(store)
    store.kill("a")
    raw_redis.hset(f"fly:{{{APP}}}:call:a", "attempt", "x")
    join(store, "m1")
    (told,) = news(store)
    assert (told.state, told.attempt) == (State.KILLED, 0)


def test_who_gives_back_what_nobody_has_costs_nothing(store, raw_redis):
    store.release(lane(), "nobody")
    assert raw_redis.keys(f"fly:{{{APP}}}:meter:*") == []


def test_what_a_lost_call_shared_is_not_kept_for_it(store, raw_redis):
    part = Part("shared", b"sealed")
    store.put_part(part)
    enqueue(store, [Call("a", b"sealed", 0, parts=[part])])
    claim(store)
    assert raw_redis.exists(f"fly:{{{APP}}}:uses:shared") == 1
    join(store, "m1")
    assert (store.info("a").state, raw_redis.exists(f"fly:{{{APP}}}:uses:shared")) == (State.LOST, 0)


def test_a_call_that_has_ended_and_stands_in_a_queue_again_stays_as_it_ended(store, raw_redis):
    enqueue(store, calls("a"))
    finish(store, *claim(store))
    raw_redis.hset(f"fly:{{{APP}}}:call:a", "pieces", "junk")
    raw_redis.zadd(f"fly:{{{APP}}}:queue:lane", {"a": 1})
    assert claim(store) == []
    assert store.info("a").state is State.SUCCEEDED


def test_a_record_without_its_losses_or_its_result_ttl_is_one_all_the_same(store, raw_redis):
    enqueue(store, calls("a"), result_ttl=60)
    raw_redis.hdel(f"fly:{{{APP}}}:call:a", "losses")
    (one,) = claim(store)
    raw_redis.hset(f"fly:{{{APP}}}:call:a", "ttl", "junk")
    finish(store, one)
    assert 86400 - 60 < raw_redis.ttl(f"fly:{{{APP}}}:call:a") <= 86400


def test_what_a_lane_has_cost_is_known_as_long_as_it_is_used(store, raw_redis):
    enqueue(store, calls("a"))
    finish(store, *claim(store))
    raw_redis.expire(f"fly:{{{APP}}}:meter:lane", 60)
    raw_redis.hset(f"fly:{{{APP}}}:load:lane", "noted", 0)  # a minute later
    enqueue(store, calls("b"), client="c2")
    assert raw_redis.ttl(f"fly:{{{APP}}}:meter:lane") > 29 * 86400


def test_ids_are_as_long_as_ours_and_no_longer(store, raw_redis):
    enqueue(store, calls("a" * 48))
    (one,) = claim(store)
    raw_redis.hset(f"fly:{{{APP}}}:claims:lane", "b" * 49, "m1")
    join(store, "m1")
    assert store.info(one.id).state is State.QUEUED
    assert raw_redis.hkeys(f"fly:{{{APP}}}:claims:lane") == [""]
    raw_redis.zadd(f"fly:{{{APP}}}:queue:lane", {"b" * 49: 1})
    assert [call.id for call in claim(store, 9)] == [one.id]


def test_a_call_that_is_lost_counts_among_those_that_have_ended(store):
    enqueue(store, calls("a", retries=0))
    claim(store)
    join(store, "m1")
    assert store.meter("lane").calls == 1


def test_a_word_that_is_too_long_for_a_head_is_none(store, raw_redis):
    enqueue(store, calls("a"))
    finish(store, *claim(store))
    raw_redis.hset(f"fly:{{{APP}}}:call:a", "region", "x" * 101)
    assert store.attach("a", "c").outcome.region == ""
