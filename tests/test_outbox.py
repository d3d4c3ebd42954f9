import threading

import pytest

from flyexecutor import outbox
from flyexecutor.call import Call
from flyexecutor.errors import RedisUnavailableError
from flyexecutor.lane import Lane
from flyexecutor.outbox import Outbox

LANE = Lane("lane", {}, (), 1, 1, 60.0)


class GatedStore:
    """A store that lets a test decide when a batch is taken, and with which error."""

    address = "redis://fake"

    def __init__(self):
        self.batches = []
        self.lanes = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.error = None

    def enqueue(self, lane, calls, **_):
        self.lanes.append(lane.name)
        self.entered.release()
        self.gate.acquire()
        if self.error:
            raise self.error
        self.batches.append([call.id for call in calls])
        return ["r"]


@pytest.fixture
def box():
    store, heard = GatedStore(), []
    made = Outbox(
        store,
        client="c",
        result_ttl=60,
        stored=lambda _lane, reservations: heard.append(reservations),
        failed=lambda calls, error: heard.append(([call.id for call in calls], error)),
    )
    made.store, made.heard = store, heard
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.close()
    store.gate.release(100)
    thread.join(10)
    assert not thread.is_alive()


def call(name, size=1):
    return Call(name, bytes(size), 0, True)


def test_what_gathers_while_one_batch_is_on_its_way_is_the_next_batch(box):
    box.put(call("a"), LANE)
    box.store.entered.acquire()
    for name in "bcd":
        box.put(call(name), LANE)
    box.store.gate.release(2)
    box.flush(10)
    assert box.store.batches == [["a"], ["b", "c", "d"]]
    assert box.heard == [["r"], ["r"]]


def test_a_batch_is_bounded_in_calls_and_bytes(box, monkeypatch):
    monkeypatch.setattr(outbox, "BATCH_CALLS", 2)
    monkeypatch.setattr(outbox, "BATCH_BYTES", 100)
    box.put(call("first"), LANE)
    box.store.entered.acquire()
    for name, size in (("a", 1), ("b", 1), ("c", 90), ("d", 90), ("e", 900)):
        box.put(call(name, size), LANE)
    box.store.gate.release(10)
    box.flush(10)
    assert box.store.batches == [["first"], ["a", "b"], ["c"], ["d"], ["e"]]


def test_flush_waits_for_what_was_put_before_and_not_for_what_comes_after(box):
    box.put(call("a"), LANE)
    box.store.entered.acquire()
    flushed = threading.Thread(target=box.flush, args=(10,))
    flushed.start()
    box.store.gate.release()
    flushed.join(10)
    assert not flushed.is_alive()


def test_flush_raises_when_the_time_is_over(box):
    box.put(call("a"), LANE)
    with pytest.raises(RedisUnavailableError, match=r"within 0\.01 s"):
        box.flush(0.01)


def test_a_call_that_was_taken_back_is_never_sent(box):
    box.put(call("a"), LANE)
    box.store.entered.acquire()
    box.put(call("b"), LANE)
    assert box.take_back("b")
    assert not box.take_back("a")  # on its way
    assert (box.holds("a"), box.holds("b")) == (True, False)
    box.store.gate.release(2)
    box.flush(10)
    assert box.store.batches == [["a"]]


def test_a_refusal_fails_the_calls_at_once_and_the_next_flush_raises_it_even_if_it_comes_later(box):
    box.store.error = RedisUnavailableError("full")
    box.store.error.permanent = True
    box.put(call("a"), LANE)
    box.store.gate.release()
    for _ in range(2):
        box.store.entered.acquire(timeout=0.1)
    with pytest.raises(RedisUnavailableError, match="full"):
        box.flush(10)
    box.flush(10)  # told once
    assert box.heard == [(["a"], box.store.error)]


def test_an_outage_is_waited_out(box):
    box.store.error = RedisUnavailableError("away")
    box.put(call("a"), LANE)
    box.store.gate.release()
    for _ in range(2):
        box.store.entered.acquire()
    box.store.error = None
    box.store.gate.release()
    box.flush(10)
    assert box.store.batches == [["a"]]


def test_while_redis_is_away_the_outbox_is_bounded(box, monkeypatch):
    monkeypatch.setattr(outbox, "HELD_BYTES", 10)
    box.store.error = RedisUnavailableError("away")
    box.put(call("a"), LANE)
    box.store.gate.release()
    for _ in range(2):
        box.store.entered.acquire()
    with pytest.raises(RedisUnavailableError, match="away"):
        box.put(call("b", 10), LANE)
    box.store.error = None
    box.store.gate.release(5)
    box.flush(10)


def test_a_batch_is_for_one_lane(box):
    other = Lane("other", {}, (), 1, 1, 60.0)
    box.put(call("a"), LANE)
    box.store.entered.acquire()
    for name, lane in (("b", LANE), ("c", other), ("d", other), ("e", LANE)):
        box.put(call(name), lane)
    box.store.gate.release(10)
    box.flush(10)
    assert box.store.batches == [["a"], ["b"], ["c", "d"], ["e"]]
    assert box.store.lanes == ["lane", "lane", "other", "lane"]
