"""Attaching without Redis: the store says what a test wants, when it wants."""

import threading
import time
import weakref
from types import SimpleNamespace

import pytest

from flyexecutor import ExpiredCallError, FlyExecutorError, RedisUnavailableError, UnknownCallError
from flyexecutor.call import CallInfo, Outcome
from flyexecutor.client import attaching as module
from flyexecutor.client.attaching import Attaching
from flyexecutor.client.future import FlyFuture
from flyexecutor.payload.trust import Trust
from flyexecutor.states import State
from flyexecutor.store.records import Attached

WAIT = 20.0
TRUST = Trust(b"k" * 32, "app")
QUEUED = CallInfo(State.QUEUED, 0, name="a name")


class RecordedWatcher:
    def __init__(self):
        self.expected, self.said = [], []
        self.closed = False

    def expect(self, future):
        self.expected.append(future)

    def fail(self, call_ids, error):
        self.said.append(("fail", list(call_ids), str(error)))

    def fail_if_closed(self):
        self.said.append(("fail if closed",))

    def progress(self, call_id, body):
        self.said.append(("progress", call_id, body))

    def resolve(self, outcome):
        self.said.append(("resolve", outcome.id))


class ScriptedStore:
    """`steps`: for each attach what it answers or raises, or a function that says so."""

    def __init__(self):
        self.steps, self.asked, self.states, self.pointers = [], [], {}, {}
        self.listing = SimpleNamespace(states=lambda ids: [self.states.get(call_id) for call_id in ids])

    def attach(self, call_id, client):
        self.asked.append((call_id, client))
        step = self.steps.pop(0)
        answer = step() if callable(step) else step
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def pointer(self, call_id):
        return self.pointers.get(call_id, "")


class Side:
    """An `Attaching` and all that it asks."""

    def __init__(self, trust=TRUST):
        self.trust, self.store, self.watcher = trust, ScriptedStore(), RecordedWatcher()
        self.futures = weakref.WeakValueDictionary()
        self.gate = threading.RLock()
        self.broken = None
        self.attaching = Attaching(
            self.store,
            trust,
            self.watcher,
            client="c",
            gate=self.gate,
            futures=self.futures,
            new_future=lambda call_id: FlyFuture(call_id, None, keep=True, attached=True),
            refuse_if_broken=self._refuse,
            listen=lambda: self.watcher.said.append(("listen",)),
            tend=lambda lane: self.watcher.said.append(("tend", lane)),
        )

    def _refuse(self):
        if self.broken:
            raise self.broken

    def submit(self, call_id):
        """As the client does it, with a key."""
        with self.gate:
            future = self.futures[call_id] = FlyFuture(call_id, None, keep=True, attached=False)
            self.attaching.overtake(future)
        return future


@pytest.fixture
def side():
    return Side()


@pytest.fixture
def call_id():
    return TRUST.new_call_id()


def pending(lane="lane"):
    return Attached(QUEUED, None, b"", lane)


def test_a_call_that_has_not_ended_is_heard_of_and_its_lane_is_looked_after(side, call_id):
    side.store.steps = [pending()]
    future = side.attaching.attach(call_id)
    assert (side.watcher.expected, side.store.asked) == ([future], [(call_id, "c")])
    assert side.watcher.said == [("listen",), ("tend", "lane"), ("fail if closed",)]
    assert (future.name, future.comes_by, future.attached) == ("a name", 0.0, True)
    assert side.attaching.attach(call_id) is future  # without a question
    assert len(side.store.asked) == 1


def test_a_call_that_has_ended_is_resolved_and_nobody_listens(side, call_id):
    outcome = Outcome(call_id, 1, State.SUCCEEDED, "m", "fra", b"sealed")
    side.store.steps = [Attached(QUEUED, outcome, b"1 2 note", "lane")]
    side.attaching.attach(call_id)
    assert side.watcher.said == [("progress", call_id, b"1 2 note"), ("resolve", call_id)]


def test_a_call_is_expected_before_it_is_asked_for(side, call_id):
    seen = []
    side.store.steps = [lambda: seen.extend(side.watcher.expected) or pending()]
    assert [side.attaching.attach(call_id)] == seen


def test_a_call_that_may_yet_come_is_waited_for(side, call_id, monkeypatch):
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)
    side.store.steps = [None]
    assert side.attaching.attach(call_id, 5.0).comes_by == 105.0
    assert side.watcher.said == [("listen",), ("fail if closed",)]
    side.store.steps.append(pending())
    assert side.attaching.attach(TRUST.new_call_id(), 5.0).comes_by == 0.0  # it has
    side.store.steps.append(None)
    other = TRUST.new_call_id()
    with pytest.raises(ExpiredCallError, match=f"the call {other} is no longer known"):
        side.attaching.attach(other)


def test_a_call_that_is_there_under_another_key_of_the_ring_is_found_by_its_pointer():
    old, new = Trust(b"o" * 32, "app"), Trust(b"n" * 32, "app", [b"o" * 32])
    side = Side(new)
    call_id, other = new.new_call_id("key"), old.new_call_id("key")
    side.store.pointers[call_id] = new.pointers("key")[0]
    side.store.steps = [None, pending()]
    assert side.attaching.attach(call_id).id == other
    side.store.pointers.clear()
    side.futures.clear()
    side.store.steps = [None]
    with pytest.raises(ExpiredCallError):
        side.attaching.attach(call_id)


def test_after_a_failure_the_next_asks_again(side, call_id):
    side.store.steps = [RedisUnavailableError("away"), pending()]
    with pytest.raises(RedisUnavailableError):
        side.attaching.attach(call_id)
    assert side.watcher.said == [("fail", [call_id], "away")]
    assert not side.attaching.attach(call_id).done()


def test_a_future_of_which_nothing_was_heard_is_asked_for_again(side, call_id):
    side.store.steps = [pending(), pending()]
    first = side.attaching.attach(call_id)
    first.unheard = True
    assert side.attaching.attach(call_id) is not first


@pytest.mark.parametrize("interrupted", [True, False])
def test_who_asks_meanwhile_gets_the_same_or_asks_himself_if_the_first_is_interrupted(side, call_id, interrupted):
    waits, answers = threading.Event(), []

    class Flights(dict):
        def get(self, key, default=None):
            flight = super().get(key, default)
            if flight:
                waits.set()  # the second has found the first
            return flight

    def ask():
        answers.append(side.attaching.attach(call_id))

    def meanwhile():
        second.start()
        assert waits.wait(WAIT)
        return KeyboardInterrupt() if interrupted else pending()

    side.attaching._flights = Flights()
    second = threading.Thread(target=ask)
    side.store.steps = [meanwhile, pending()]
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            side.attaching.attach(call_id)
    else:
        answers.append(side.attaching.attach(call_id))
    second.join(WAIT)
    assert (len(side.store.asked), len(answers), len(set(answers))) == ((2, 1, 1) if interrupted else (1, 2, 1))
    assert side.attaching._flights == {}


def test_an_interrupted_attach_ends_its_future_and_is_raised_as_it_was(side, call_id):
    side.store.steps = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        side.attaching.attach(call_id)
    assert side.watcher.said == [("fail", [call_id], f"the attach to {call_id} was interrupted")]


@pytest.mark.parametrize("error", [None, RedisUnavailableError("away"), KeyboardInterrupt()])
def test_a_submit_with_the_same_key_is_faster(side, call_id, error):
    submitted = []

    def meanwhile():
        submitted.append(side.submit(call_id))
        return error or pending()

    side.store.steps = [meanwhile]
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            side.attaching.attach(call_id)
    else:
        assert side.attaching.attach(call_id) is submitted[0]
    assert side.futures[call_id] is submitted[0]
    assert "fail" not in {what for what, *_ in side.watcher.said}


def test_a_broken_client_attaches_to_nothing(side, call_id):
    side.broken = FlyExecutorError("a thread has died")
    with pytest.raises(FlyExecutorError, match="has died"):
        side.attaching.attach(call_id)
    assert (side.watcher.expected, side.store.asked) == ([], [])


def test_ids_that_are_not_ours_are_refused_before_anybody_is_asked(side, call_id):
    batch_id = TRUST.new_batch_id(2)
    for ask, wrong, said in (
        (side.attaching.attach, batch_id, r"is the id of a batch, not of a call: use batch\(id\)"),
        (side.attaching.attach_batch, call_id, r"is the id of a call, not of a batch: use future\(id\)"),
        (side.attaching.attach, Trust(b"x" * 32, "app").new_call_id(), "no call has the id .* in the app 'app'"),
        (side.attaching.attach_batch, "", "no batch has the id ''"),
    ):
        with pytest.raises(UnknownCallError, match=said):
            ask(wrong)
    for ask, what in ((side.attaching.attach, "call"), (side.attaching.attach_batch, "batch")):
        with pytest.raises(TypeError, match=f"^{what}_id is None: it must be a text, the id of a {what}$"):
            ask(None)
    with pytest.raises(UnknownCallError, match=r"another key\. Do this$"):
        side.attaching.check_id("", "call", remedy=". Do this")
    assert side.store.asked == []


class Batch:
    """Four calls, of which the second is stored."""

    def __init__(self, side, age):
        self.side = side
        self.id = TRUST.new_batch_id(4)
        self.calls = TRUST.calls_of_batch(self.id)
        side.store.states = {self.calls[1]: State.RUNNING}
        self.now = TRUST.made_at(self.id) + age
        self.times = SimpleNamespace(time=lambda: self.now, monotonic=time.monotonic)

    def attach(self, monkeypatch):
        monkeypatch.setattr(module, "time", self.times)
        return self.side.attaching.attach_batch(self.id)


def test_behind_the_last_call_of_a_batch_that_is_stored_they_may_still_come(side, monkeypatch):
    batch = Batch(side, age=1.0)
    side.store.steps = [pending(), None, None]
    first, *others = batch.attach(monkeypatch)
    assert isinstance(first.exception(0), ExpiredCallError)
    assert [future.done() for future in others] == [False] * 3
    assert [call_id for call_id, _ in side.store.asked] == batch.calls[1:]


def test_of_an_old_batch_none_comes_any_more(side, monkeypatch):
    batch = Batch(side, age=module.STORED_WITHIN + 1.0)
    side.store.steps = [None]  # what was there has just expired
    assert {type(future.exception(0)) for future in batch.attach(monkeypatch)} == {ExpiredCallError}
    assert [call_id for call_id, _ in side.store.asked] == batch.calls[1:2]
    side.store.states.clear()
    with pytest.raises(ExpiredCallError, match=f"the batch {batch.id} is no longer known"):
        batch.attach(monkeypatch)


def test_a_clock_that_lags_makes_no_batch_wait_for_longer(side, monkeypatch):
    batch = Batch(side, age=-3600.0)
    side.store.states.clear()
    side.store.steps = [None] * 4
    before = time.monotonic()
    for future in batch.attach(monkeypatch):
        assert future.comes_by <= time.monotonic() + module.STORED_WITHIN
        assert future.comes_by >= before + module.STORED_WITHIN


def test_a_call_of_a_batch_that_this_client_has_is_not_told_expired(side, monkeypatch):
    batch = Batch(side, age=module.STORED_WITHIN + 1.0)
    own = side.submit(batch.calls[3])
    side.store.steps = [pending()]
    assert batch.attach(monkeypatch)[3] is own


def test_the_states_of_many_calls_are_asked_for_in_portions(side, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 3)
    sizes = []
    side.store.listing.states = lambda ids: sizes.append(len(ids)) or [State.QUEUED] * len(ids)
    batch_id = TRUST.new_batch_id(8)
    assert side.attaching.batch(batch_id) == [(call_id, State.QUEUED) for call_id in TRUST.calls_of_batch(batch_id)]
    assert sizes == [3, 3, 2]
