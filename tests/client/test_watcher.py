"""The watcher on a real Redis; the test is the worker."""

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from typing import Any
from urllib.parse import urlsplit

import pytest

from flyexecutor import CallForgottenError, ExpiredCallError, FlyExecutorError
from flyexecutor.call import Call, Outcome
from flyexecutor.client import watcher as watchers
from flyexecutor.client.future import FlyFuture
from flyexecutor.client.stream import ItemStream
from flyexecutor.client.watcher import Watcher
from flyexecutor.lane import Lane
from flyexecutor.payload import pickles as payloads
from flyexecutor.payload.trust import Trust
from flyexecutor.states import State
from flyexecutor.store import records
from flyexecutor.store.calls import Intake, Store
from flyexecutor.terms import answer_to, new_terms
from tests.conftest import APP
from tests.wire import Wire

LANE = Lane("lane", {}, (), 10, 1, 60.0)
TRUST = Trust(bytes(32), APP)
ENDED = answer_to(new_terms([LANE.name], result_ttl=600.0), State.SUCCEEDED)
WAIT = 20.0


class Client:
    """What an executor's client is to its watcher; `work` does what a machine would."""

    def __init__(self, store: Store, worker: Store, result_ttl: float) -> None:
        self.store = store
        self.worker = worker
        self.result_ttl = result_ttl
        self.watcher = Watcher(
            store,
            TRUST,
            client="c",
            result_ttl=result_ttl,
            unsent=lambda _: False,
            moved=lambda _: None,
            same=lambda *_: None,
            waiting=lambda *_: None,
        )
        self._batches = 0
        worker._redis.hset(worker._key("workers", LANE.name), "m", 1)
        self._thread = threading.Thread(target=self.watcher.run)
        self._thread.start()

    def submit(self, number: int, *, keep: bool = True) -> list[FlyFuture[Any]]:
        futures = [FlyFuture(TRUST.new_call_id(), None, keep=keep, attached=False) for _ in range(number)]
        for future in futures:
            self.watcher.expect(future)
        self._batches += 1
        self.worker.enqueue(
            LANE,
            [Call(future.id, b"call", keep=keep) for future in futures],
            client="c",
            result_ttl=self.result_ttl,
            reservation=f"c.{self._batches}",
        )
        return futures

    def work(self, value: object = None, most: int = 1000) -> None:
        """Run what waits, in order: each call returns `value`, or raises it."""
        dumped = payloads.dump_exception(value, "") if isinstance(value, Exception) else payloads.dump_value(value)
        outcomes = []
        for call in self.worker.claim(LANE.name, "m", "iad", Intake(most, 0, 1, "")).calls:
            sealed = TRUST.seal_outcome(call.id, call.attempt, ENDED, dumped.body, dumped.encoding)
            outcomes.append(Outcome(call.id, call.attempt, State.SUCCEEDED, "m", "iad", sealed))
        for at in range(0, len(outcomes), 20):
            self.worker.finish(LANE.name, "m", "iad", outcomes[at : at + 20], Intake(0, 0, 1, ""))

    def close(self) -> None:
        self.watcher.close()
        self._thread.join(WAIT)
        assert not self._thread.is_alive()


@pytest.fixture
def client(store: Store) -> Iterator[Client]:
    client = Client(store, store, 60.0)
    yield client
    client.close()


@pytest.fixture
def wire(redis_url: str) -> Iterator[Wire]:
    where = urlsplit(redis_url)
    with Wire(where.hostname, where.port) as wire:
        yield wire


@pytest.fixture
def make_far_client(store: Store, redis_url: str, wire: Wire) -> Iterator[Any]:
    """Makes a client behind the wire; its worker is not."""
    with contextlib.ExitStack() as stack:

        def make(result_ttl: float = 60.0) -> Client:
            far = Store(wire.url(redis_url), APP)
            stack.callback(far.close)
            client = Client(far, store, result_ttl)
            stack.callback(client.close)
            return client

        yield make


class Exits:
    """Unpickling it raises SystemExit."""

    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class Refuses(Exception):
    """It takes no note."""

    def add_note(self, note: str) -> None:
        raise asyncio.CancelledError


# Whatever it meets, it goes on


def test_an_outcome_whose_unpickling_exits_ends_its_own_future_alone(client):
    (first,) = client.submit(1)
    client.work(Exits())
    assert isinstance(first.exception(WAIT), SystemExit)
    (second,) = client.submit(1)
    client.work("well")
    assert second.result(WAIT) == "well"


def test_an_exception_that_takes_no_note_ends_its_own_future_alone(client):
    (first,) = client.submit(1)
    client.work(Refuses())
    assert isinstance(first.exception(WAIT), Refuses)
    (second,) = client.submit(1)
    client.work("well")
    assert second.result(WAIT) == "well"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
def test_a_callback_that_raises_anything_keeps_no_other_from_being_called(client, kind, caplog):
    called = threading.Event()

    def raise_it(_future: object) -> None:
        raise kind

    (first,) = client.submit(1)
    first.add_done_callback(raise_it)
    first.add_done_callback(lambda _: called.set())
    client.work()
    assert called.wait(WAIT)
    assert kind.__name__ in caplog.text
    (second,) = client.submit(1)
    client.work("well")
    assert second.result(WAIT) == "well"


def test_a_callback_that_is_interrupted_in_the_main_thread_interrupts_it(client):
    def interrupt(_future: object) -> None:
        raise KeyboardInterrupt

    (future,) = client.submit(1)
    client.work()
    future.result(WAIT)
    with pytest.raises(KeyboardInterrupt):
        future.add_done_callback(interrupt)


def test_a_record_that_is_damaged_ends_its_own_future_alone(client, raw_redis, monkeypatch):
    monkeypatch.setattr(watchers, "READ_FOR", 0.1)
    first, second = client.submit(2)
    raw_redis.hset(client.store._key("call", first.id), "state", "nonsense")
    raw_redis.delete(client.store._key("call", second.id))
    raw_redis.set(client.store._key("call", second.id), "no call")
    assert isinstance(first.exception(WAIT), FlyExecutorError)
    assert isinstance(second.exception(WAIT), CallForgottenError)
    (third,) = client.submit(1)
    client.worker.cancel([third.id])
    with pytest.raises(CancelledError):
        third.result(WAIT)


@pytest.mark.parametrize(
    "head", ["id SUCCEEDED 1 m r - 1 2 3 4", "id SUCCEEDED 1 m r = 1 2 3", "id SUCCEEDED 1 m r x:1 1 2 3"]
)
def test_an_entry_that_is_damaged_keeps_no_other_from_being_heard(client, raw_redis, head):
    (future,) = client.submit(1)
    raw_redis.set(client.store._key("call", "id"), "no call")
    raw_redis.hset(client.store._key("piece", "x:1"), "no", "piece")
    raw_redis.xadd(client.store._key("outcomes", "c"), {"head": head, "body": ""})
    client.work("well")
    assert future.result(WAIT) == "well"


def test_an_outcome_of_more_pieces_than_there_can_be_is_passed_over(client, raw_redis):
    (future,) = client.submit(1)
    head = f"{future.id} SUCCEEDED 1 m r x:{10**15} 1 2 3"
    raw_redis.xadd(client.store._key("outcomes", "c"), {"head": head, "body": ""})
    client.work("well")
    assert future.result(WAIT) == "well"


# What Redis knows and does not


def test_what_ended_behind_entries_that_are_passed_over_is_not_told_forgotten(client, raw_redis, monkeypatch):
    monkeypatch.setattr(watchers, "READ_FOR", 0.1)
    asked, ask = [], client.store.standing

    def ask_late(ids: Any) -> Any:
        if not asked:
            asked.append(True)
            for _ in range(250):
                raw_redis.xadd(client.store._key("outcomes", "c"), {"head": "nonsense"})
            client.work("well")
        return ask(ids)

    monkeypatch.setattr(client.store, "standing", ask_late)
    (future,) = client.submit(1, keep=False)
    assert future.result(WAIT) == "well"


def test_an_outcome_that_expired_while_a_callback_held_up_the_thread_is_told_as_expired(store, raw_redis, monkeypatch):
    monkeypatch.setattr(watchers, "READ_FOR", 0.1)
    with contextlib.closing(Client(store, store, 1.0)) as client:
        first, second = client.submit(2)
        busy = threading.Event()

        def wait_long(_future: object) -> None:
            busy.set()
            while raw_redis.exists(store._key("call", second.id)):
                pass

        first.add_done_callback(wait_long)
        client.work(most=1)
        assert busy.wait(WAIT)
        client.work()
        assert isinstance(second.exception(WAIT), ExpiredCallError)


def test_a_call_that_is_not_in_the_outbox_yet_is_not_told_forgotten(make_executor, monkeypatch):
    monkeypatch.setattr(watchers, "READ_FOR", 0.05)
    executor = make_executor()
    client = executor._client
    told, look_up, put = threading.Event(), client._watcher._look_up, client._outbox.put

    def tell(call_id: str) -> None:
        look_up(call_id)
        told.set()

    def put_late(*call: Any) -> None:
        told.wait(0.3)
        put(*call)

    monkeypatch.setattr(client._watcher, "_look_up", tell)
    monkeypatch.setattr(client._outbox, "put", put_late)
    call_id = client._trust.new_call_id()
    future = client.send(Call(call_id, b""), executor._lane)
    assert future.cancel()


def test_an_item_that_has_expired_is_told_as_expired():
    stream: ItemStream[object] = ItemStream(TRUST)
    stream.future = FlyFuture("id", None, keep=False, attached=False)
    stream.take(1, 0, b"")
    with pytest.raises(ExpiredCallError):
        next(stream)


# Two threads and one id


def test_what_ended_unread_after_a_silence_is_not_told_forgotten(client, monkeypatch):
    monkeypatch.setattr(watchers, "READ_FOR", 0.1)
    asked, ask = [], client.store.standing

    def ask_late(ids: Any) -> Any:
        if not asked:
            asked.append(True)
            client.work("well")  # a burst that nobody has read yet
        return ask(ids)

    monkeypatch.setattr(client.store, "standing", ask_late)
    futures = client.submit(450, keep=False)
    wait(futures, WAIT)
    assert {repr(future.exception(0)) for future in futures} == {"None"}


def test_a_call_that_redis_has_forgotten_is_told_although_others_come_and_go(client, raw_redis, monkeypatch):
    monkeypatch.setattr(watchers, "READ_FOR", 0.2)
    (lost,) = client.submit(1)
    raw_redis.flushall()
    raw_redis.hset(client.store._key("workers", LANE.name), "m", 1)
    told = threading.Event()
    lost.add_done_callback(lambda _: told.set())
    for _ in range(200):
        client.submit(1)
        client.work()
        if told.wait(0.05):
            break
    assert isinstance(lost.exception(0), CallForgottenError)


def test_who_is_not_told_of_an_end_finds_out(client, raw_redis, monkeypatch):
    monkeypatch.setattr(watchers, "READ_FOR", 0.2)
    (future,) = client.submit(1)
    raw_redis.hset(client.store._key("call", future.id), "watch", "others")
    client.work("well")
    assert future.result(WAIT) == "well"


def test_an_outcome_that_expired_while_redis_was_out_of_reach_is_told_as_expired(make_far_client, wire, raw_redis):
    client = make_far_client(result_ttl=1.0)
    (future,) = client.submit(1)
    wire.refuse()
    wire.cut()
    client.work(bytes(records.INLINE_BYTES + 1))
    while raw_redis.exists(client.store._key("call", future.id)):
        pass
    wire.heal()
    assert isinstance(future.exception(WAIT), ExpiredCallError)


def test_an_outcome_whose_pieces_have_expired_is_told_as_expired(client, raw_redis, monkeypatch):
    (future,) = client.submit(1)
    with monkeypatch.context() as away:
        away.setattr(client.store._bulk, "getrange", lambda *_: b"")
        client.work(os.urandom(records.INLINE_BYTES + 1))
        assert isinstance(future.exception(WAIT), ExpiredCallError)


# Large outcomes


def test_large_outcomes_arrive_over_a_link_that_breaks_again_and_again(make_far_client, wire, monkeypatch):
    monkeypatch.setattr(records, "PIECE_BYTES", 32 * 1024)
    client = make_far_client()
    futures = client.submit(30)
    value = os.urandom(records.INLINE_BYTES + 1)
    wire.cut_after(3 * records.INLINE_BYTES)
    client.work(value)
    wait(futures, WAIT)
    assert all(future.result(0) == value for future in futures)


@pytest.mark.parametrize("keep", [False, True])
def test_many_outcomes_that_are_not_large_arrive_over_a_link_that_breaks_again_and_again(make_far_client, wire, keep):
    client = make_far_client()
    futures = client.submit(100, keep=keep)
    value = os.urandom(records.INLINE_BYTES // 2)
    wire.cut_after(3 * records.INLINE_BYTES)
    client.work(value)
    wait(futures, WAIT)
    assert all(future.result(0) == value for future in futures)


def test_a_large_outcome_is_fetched_when_its_turn_comes(client, store, monkeypatch):
    reader = store.outcomes("c")
    client.watcher.close()
    client.submit(3)
    client.work(bytes(records.INLINE_BYTES + 1))
    fetched, get = [], store._bulk.getrange
    monkeypatch.setattr(store._bulk, "getrange", lambda *told: fetched.append(told) or get(*told))
    news = reader.read(WAIT)
    assert next(news).sealed
    assert len(fetched) == 1
    reader.close()


def test_a_kept_outcome_is_in_redis_once_however_many_hear_of_it(client, store, raw_redis):
    client.watcher.close()
    (future,) = client.submit(1)
    for n in range(5):
        store.attach(future.id, f"c{n}")
    value = os.urandom(100_000)
    client.work(value)
    sizes = [raw_redis.memory_usage(key, samples=0) for key in raw_redis.keys("*:outcomes:*")]
    assert len(sizes) == 6
    assert sum(sizes) < 50_000
    for name in ("c", "c0"):
        reader = store.outcomes(name)
        (outcome,) = reader.read(WAIT)
        reader.close()
        opened = TRUST.open_outcome(outcome.id, outcome.attempt, outcome.sealed)
        assert payloads.load_outcome(opened.encoding, opened.body).value == value
