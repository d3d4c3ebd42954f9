"""The store's verbs, on a real Redis; and on fakeredis, whose Lua is another."""

import threading
import time

import fakeredis
import pytest
import redis

from flyexecutor.call import Call, Outcome
from flyexecutor.errors import RedisUnavailableError
from flyexecutor.lane import Lane
from flyexecutor.records import CHUNK_BYTES, INLINE_BYTES
from flyexecutor.states import State
from flyexecutor.store import Stay, Store
from tests.conftest import APP


def lane(max_workers=10, concurrency=1, boot_timeout=60.0):
    return Lane("lane", {}, (), max_workers, concurrency, boot_timeout)


def calls(*ids, keep=True, sealed=b"sealed", retries=1):
    return [Call(call_id, sealed, retries, keep) for call_id in ids]


def enqueue(store, batch, *, client="c1", where=None, result_ttl=60):
    return store.enqueue(where or lane(), batch, client=client, result_ttl=result_ttl, reservation=f"{client}.1")


def claim(store, limit=1, machine="m1"):
    store._redis.hsetnx(store._key("workers", "lane"), machine, 1)  # as join does; that would do more
    return store.claim("lane", machine, "iad", [], limit)


def finish(store, call, *, sealed=b"value", machine="m1", more=0, logs=b""):
    outcome = Outcome(call.id, call.attempt, State.SUCCEEDED, machine, "iad", sealed, logs)
    return store.finish("lane", machine, "iad", [outcome], more, concurrency=1).calls


@pytest.fixture(params=["real", "fake"])
def any_store(request, monkeypatch):
    if request.param == "real":
        return request.getfixturevalue("store")
    server = fakeredis.FakeServer()
    monkeypatch.setattr(
        Store, "_connect", staticmethod(lambda _url, _timeout: fakeredis.FakeRedis(server=server, protocol=2))
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


def test_a_reservation_that_is_not_renewed_expires(store, monkeypatch):
    for module in ("store", "lane_store"):
        monkeypatch.setattr(f"flyexecutor.{module}.RESERVATION_TTL", 0.2)
    (kept,) = enqueue(store, calls("a"), where=lane(1))
    deadline = time.monotonic() + 0.4
    while time.monotonic() < deadline:  # renewed all the while
        assert store.look(lane(1), "other", [kept]).reservations == []
    while not (granted := store.look(lane(1), "other").reservations):
        assert time.monotonic() < deadline + 5
    assert granted == ["other:1"]


def test_a_machine_is_assigned_once_and_join_takes_it_off_the_way(any_store):
    one, two = enqueue(any_store, calls("a", "b"))
    assert any_store.assign(lane(), one, "m1")
    assert not any_store.assign(lane(), two, "m1")
    any_store.join("lane", "m1", first=True)
    look = any_store.look(lane(), "x")
    assert (set(look.workers), look.starts) == ({"m1"}, {two})
    assert not any_store.assign(lane(), two, "m1")


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
    assert any_store.bury(lane(), "m1", "another join", "gone", oom=False) == 0
    assert any_store.bury(lane(), "m1", joined, "it is gone", oom=False) == 1
    outcome = any_store.attach("a", "c").outcome
    assert (outcome.state, outcome.sealed) == (State.LOST, b"it is gone")
    assert any_store.look(lane(), "x").workers == {}


def test_calls_that_are_handed_back_cost_no_retry(any_store):
    enqueue(any_store, calls("a", retries=0))
    any_store.hand_back("lane", claim(any_store))
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


def test_a_call_cancelled_between_its_delivery_and_its_claim_does_not_run(store):
    enqueue(store, calls("a"))
    store.join("lane", "m1", first=True)
    reader = store.deliveries("lane", "m1")
    reader.ask(5.0)
    delivered = reader.answer()
    assert store.cancel(["a"]) == ["a"]
    assert store.claim("lane", "m1", "iad", delivered, 0) == []
    reader.close()


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
    assert raw_redis.xlen(f"fly:{{{APP}}}:outcomes:c1") == 0
    reader.close()


@pytest.mark.parametrize("size", [INLINE_BYTES, INLINE_BYTES + 1, 2 * CHUNK_BYTES + 1])
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
    assert left == {"queue", "starts", "outcomes", "sent", "load", "meter", "lanes", "workers"}


def test_every_key_has_a_time_to_live_and_the_hash_tag(store, raw_redis):
    store.join("lane", "m1", first=True)
    enqueue(store, calls("a", "b", sealed=bytes(INLINE_BYTES + 1)))
    finish(store, claim(store)[0], sealed=bytes(INLINE_BYTES + 1))
    keys = raw_redis.keys(f"fly:{{{APP}}}:*")
    assert len(keys) >= 6
    assert {key.split(":")[1] for key in keys} == {f"{{{APP}}}"}
    assert {key: raw_redis.ttl(key) for key in keys if raw_redis.ttl(key) <= 0} == {}


def test_an_emptied_redis_is_told_apart(store, raw_redis):
    enqueue(store, calls("a"))
    raw_redis.flushall()
    assert store.standing(["a"]) == [False]
    with pytest.raises(RedisUnavailableError) as told:
        claim(store)
    assert told.value.lane_gone


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
    with pytest.raises(RedisUnavailableError, match="refused") as told:
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
        away.setattr(store._bulk, "get", lambda _key: (_ for _ in ()).throw(redis.ConnectionError("away")))
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
    store.join("lane", "m1", first=True)
    reader = store.deliveries("lane", "m1")
    reader.ask(5.0)
    assert store.bury(lane(), "m1", store.look(lane(), "look").workers["m1"], "gone", oom=False) == 0
    enqueue(store, calls("a"))
    with pytest.raises(RedisUnavailableError, match="buried") as told:
        store.claim("lane", "m1", "iad", reader.answer(), 5)
    assert told.value.lane_gone
    reader.close()
    assert [one.id for one in claim(store, machine="m2")] == ["a"]


def test_a_call_that_a_dead_hosts_open_read_has_taken_goes_to_another(store):
    store.join("lane", "m1", first=True)
    reader = store.deliveries("lane", "m1")
    reader.ask(5.0)
    store.bury(lane(), "m1", store.look(lane(), "look").workers["m1"], "gone", oom=False)
    enqueue(store, calls("a"))
    assert reader.answer()  # by a host that nobody hears any more
    assert claim(store, machine="m2") == []
    store.look(lane(), "another look")
    (one,) = claim(store, machine="m2")
    assert (one.id, one.attempt) == ("a", 1)
    reader.close()


def test_creates_are_paced_for_all_clients_together(redis_url):
    stores = [Store(redis_url, APP) for _ in range(2)]
    waits = [stores[n % 2].pace_create(1.0, 3) for n in range(6)]
    assert waits[:3] == [0.0, 0.0, 0.0]
    assert [round(wait) for wait in waits[3:]] == [1, 2, 3]
    for one in stores:
        one.close()
