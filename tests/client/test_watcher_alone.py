"""The watcher without Redis: the other side says what a test wants, in the thread of the test, and no time passes."""

import threading
from types import SimpleNamespace

import pytest

from flyexecutor import (
    CallForgottenError,
    CallKilledError,
    ExpiredCallError,
    FlyExecutorError,
    MachineLostError,
    OutOfMemoryError,
    PayloadError,
    RedisUnavailableError,
)
from flyexecutor.call import CallInfo, Outcome, Report
from flyexecutor.client import watcher as module
from flyexecutor.client.future import FlyFuture
from flyexecutor.client.watcher import Watcher
from flyexecutor.payload import pickles
from flyexecutor.payload.trust import Trust
from flyexecutor.states import State
from flyexecutor.store.records import INLINE_BYTES, Attached
from flyexecutor.terms import UNREAD, OutcomeTerms

TRUST = Trust(b"k" * 32, "app")
AWAY = RedisUnavailableError("away")


class ScriptedReader:
    """For each read it does a step: raise an error, or answer news. After the last step it closes the watcher."""

    def __init__(self, clock):
        self.clock, self.steps, self.blocks, self.rewound = clock, [], [], 0
        self.answered_at, self.at_end, self.remove_soon = 0.0, True, False
        self.end = None

    def read(self, block):
        self.blocks.append(block)
        assert len(self.blocks) < 100, "it reads again and again"
        if not self.steps:
            self.end()
            return []
        step = self.steps.pop(0)
        news = step() if callable(step) else step
        if isinstance(news, BaseException):
            raise news
        self.clock.now += block
        self.answered_at = self.clock.now
        return news

    def rewind(self):
        self.rewound += 1

    def close(self):
        pass


class Side:
    """A watcher and all that it hears and says."""

    address = "redis://fake"

    def __init__(self, clock):
        self.clock, self.reader = clock, ScriptedReader(clock)
        self.unsent, self.open, self.found, self.pointers = set(), set(), {}, {}
        self.said, self.asked = [], []
        self.watcher = Watcher(
            self,
            TRUST,
            client="c",
            result_ttl=60.0,
            unsent=self.unsent.__contains__,
            moved=lambda lane: self.said.append(("moved", lane)),
            same=self._same,
            waiting=lambda call_id, waits: self.said.append(("waiting", call_id, waits)),
        )
        self.reader.end = clock.parked = self.watcher.close

    # As the store

    def outcomes(self, client):
        assert client == "c"
        return self.reader

    def standing(self, call_ids):
        self.asked.append(list(call_ids))
        return [call_id in self.open for call_id in call_ids]

    def attach(self, call_id, client):
        return self.found.get(call_id)

    def pointer(self, call_id):
        return self.pointers.get(call_id, "")

    def drop_item(self, report):
        self.said.append(("drop item", report.number))

    def drop_outcome(self, outcome):
        self.said.append(("drop outcome", outcome.id))

    # As the client

    def _same(self, call_id, other):
        self.said.append(("same", self.watcher.rename(call_id, other)))

    def expect(self, *, keep=True, attached=False, nonce=b""):
        future = FlyFuture(TRUST.new_call_id(), None, keep=keep, attached=attached, nonce=nonce)
        self.watcher.expect(future)
        self.open.add(future.id)
        return future

    def run(self, *steps):
        self.reader.steps = list(steps)
        self.watcher.run()

    def of(self, what):
        return [said for said in self.said if said[0] == what]


@pytest.fixture
def clock(monkeypatch):
    """Time passes in a read that blocks, and in a pause. A watcher that parks, with nothing pending, is closed."""
    clock = SimpleNamespace(now=1000.0, pauses=[], parked=None)

    class Condition(threading.Condition):
        def wait(self, timeout=None):
            clock.parked()

        def wait_for(self, predicate, timeout=None):
            clock.pauses.append(timeout)
            clock.now += timeout
            return predicate()

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now, time=lambda: clock.now))
    monkeypatch.setattr(module, "threading", SimpleNamespace(Condition=Condition))
    return clock


@pytest.fixture
def side(clock):
    return Side(clock)


def outcome(future, value="well", *, state=State.SUCCEEDED, nonce=b"n" * 16, kept_until=2000.0):
    terms = OutcomeTerms(nonce, state, kept_until)
    sealed = TRUST.seal_outcome(future.id, 1, terms, pickles.dump_value(value).body)
    return Outcome(future.id, 1, state, "m", "fra", sealed)


def plain(future, state, reason):
    return Outcome(future.id, 1, state, "m", "fra", reason)


# What it hears


def test_an_outcome_ends_its_future_and_is_waited_for_no_longer(side):
    future = side.expect()
    side.run([outcome(future)])
    assert (future.result(0), side.of("waiting")) == (
        "well",
        [("waiting", future.id, True), ("waiting", future.id, False)],
    )


@pytest.mark.parametrize(("keep", "size", "dropped"), [(False, 1, True), (True, 1, False), (False, 0, False)])
def test_a_large_outcome_that_nobody_will_ask_for_again_is_dropped(side, keep, size, dropped):
    future = side.expect(keep=keep)
    side.run([outcome(future, bytes(range(256)) * (INLINE_BYTES // 256 * size))])
    assert side.of("drop outcome") == ([("drop outcome", future.id)] if dropped else [])


@pytest.mark.parametrize(
    ("state", "reason", "kind", "words"),
    [
        (State.LOST, b"exit code 1", MachineLostError, "the machine m that ran the call was lost: exit code 1"),
        (State.LOST, b"oom: killed", OutOfMemoryError, "ran out of memory on machine m: killed"),
        (State.KILLED, b"stopped", CallKilledError, "was stopped: somebody asked for that"),
        (State.SUCCEEDED, b"damaged: no head", PayloadError, "the record of call .* is damaged: no head"),
        (State.SUCCEEDED, b"", ExpiredCallError, "has expired .* before it could be fetched"),
        (State.SUCCEEDED, b"nonsense", PayloadError, "is truncated"),
    ],
)
def test_what_has_no_seal_ends_a_call_with_an_error_and_never_with_a_result(side, state, reason, kind, words):
    future = side.expect()
    side.run([plain(future, state, reason)])
    error = future.exception(0)
    assert type(error) is kind
    with pytest.raises(kind, match=words):
        raise error
    assert future.state() is (state if state in {State.LOST, State.KILLED} else State.FAILED)


def test_a_result_that_answers_another_submit_is_refused_and_an_error_that_could_not_read_it_is_not(side):
    ours, replayed, unread, forged = (side.expect(nonce=b"o" * 16) for _ in range(4))
    side.run(
        [
            outcome(ours, nonce=b"o" * 16),
            outcome(replayed, nonce=b"x" * 16),
            outcome(unread, "an error", state=State.FAILED, nonce=UNREAD.nonce),
            outcome(forged, nonce=UNREAD.nonce),
        ]
    )
    assert (ours.result(0), unread.result(0)) == ("well", "an error")
    for future in (replayed, forged):
        assert "answers another submit: it was replayed" in str(future.exception(0))


def test_an_outcome_that_should_be_gone_is_refused_where_no_nonce_is_known(side):
    old, in_doubt, known = side.expect(), side.expect(), side.expect(nonce=b"n" * 16)
    doubt = side.clock.now + module.READ_FOR - module.CLOCKS_DIFFER  # when it is read
    side.run(
        [outcome(old, kept_until=doubt - 1.0), outcome(in_doubt, kept_until=doubt), outcome(known, kept_until=0.0)]
    )
    assert isinstance(old.exception(0), ExpiredCallError)
    assert (in_doubt.result(0), known.result(0)) == ("well", "well")


def test_items_go_to_who_takes_them_and_large_ones_are_dropped(side):
    future, other, taken = side.expect(), side.expect(), []
    side.watcher.expect_items(future.id, lambda *item: taken.append(item))
    items = [(future.id, 0, b"a"), (future.id, 1, bytes(INLINE_BYTES + 1)), (other.id, 2, bytes(INLINE_BYTES + 1))]
    late = Report(future.id, 1, Report.ITEM, 3, b"late")
    side.run([*(Report(call_id, 1, Report.ITEM, n, body) for call_id, n, body in items), outcome(future), late])
    assert [(attempt, number, body[:1]) for attempt, number, body in taken] == [(1, 0, b"a"), (1, 1, b"\0")]
    assert side.of("drop item") == [("drop item", 1)]


def test_a_call_that_has_moved_is_passed_on_and_what_moves_nowhere_hurts_no_other(side):
    future = side.expect()
    side.run([Report(future.id, 1, Report.MOVED, 0, b"\xff\xff"), Report(future.id, 1, Report.MOVED, 0, b"large")])
    assert side.of("moved") == [("moved", "large")]


def test_a_call_that_is_there_under_another_id_is_expected_under_that(side):
    old, ring = Trust(b"o" * 32, "app"), Trust(b"k" * 32, "app", [b"o" * 32])
    side.watcher._trust = ring
    call_id, other = ring.new_call_id("key"), old.new_call_id("key")
    future = FlyFuture(call_id, None, keep=True, attached=False)
    side.watcher.expect(future)
    forged = (ring.pointers("key")[0][:-1] + "0").encode()
    side.run([Report(call_id, 1, Report.SAME, 0, body) for body in (forged, ring.pointers("key")[0].encode())])
    assert (side.of("same"), future.id) == ([("same", future)], other)
    assert side.of("waiting")[:3] == [("waiting", call_id, True), ("waiting", other, True), ("waiting", call_id, False)]


def test_of_two_futures_that_turn_out_to_be_one_call_the_second_is_left_as_it_is(side):
    first, second = side.expect(), side.expect()
    assert side.watcher.rename(second.id, first.id) is None
    assert side.watcher.rename("unknown", "other") is None
    assert side.watcher.pending() == [first, second]


# When it asks


def test_it_asks_how_calls_stand_after_each_time_of_silence_but_not_of_what_is_not_sent(side):
    sent, unsent = side.expect(), side.expect()
    side.unsent.add(unsent.id)
    side.run([], [], [])
    assert side.asked == [[sent.id]] * 3
    assert side.reader.blocks == [module.READ_FOR] * 4


def test_while_a_call_may_yet_come_it_asks_more_often_and_then_no_longer(side):
    future = side.expect()
    future.comes_by = side.clock.now + 2.5
    side.open.clear()
    side.run([], [], [], [], [], [], [])
    assert isinstance(future.exception(0), ExpiredCallError)
    assert side.asked == [[future.id]] * 3


def test_a_call_that_comes_late_has_its_lane_looked_after_and_its_name(side):
    future = side.expect()
    future.comes_by = side.clock.now + 60.0
    side.found[future.id] = Attached(CallInfo(State.QUEUED, 0, name="late"), None, b'[1, 2, "so far"]', "lane")
    side.run([], [], [])
    assert (side.of("moved"), future.name, future.comes_by) == ([("moved", "lane")], "late", 0.0)
    assert future.progress().note == "so far"


def test_a_call_that_redis_does_not_know_is_told_forgotten_or_expired_if_nobody_could_ask_in_time(side):
    future = side.expect()
    side.open.clear()
    side.run([], [])
    assert isinstance(future.exception(0), CallForgottenError)
    assert side.reader.rewound == 1


def test_a_call_that_expired_while_redis_was_away_is_told_as_expired(side):
    future = side.expect()
    side.open.clear()

    def return_late():
        side.clock.now += 61.0
        return AWAY

    side.run(return_late, [], [])
    assert isinstance(future.exception(0), ExpiredCallError)


def test_it_tries_again_after_ever_longer_pauses_and_asks_at_once_when_redis_is_back(side, clock):
    future = side.expect()
    side.run(*[AWAY] * 9, [], AWAY, [])
    assert clock.pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.05]
    assert set(map(tuple, side.asked)) == {(future.id,)}
    assert len(side.asked) == 12  # before each read but the first: it failed, or it was a silence


# How it ends


def test_what_is_pending_at_the_end_has_the_error_of_the_end(side):
    first = side.expect()
    side.watcher.close(error := FlyExecutorError("a thread has died"))
    assert first.exception(0) is error
    second = side.expect()
    side.watcher.close()
    assert "was shut down before this call ended" in str(second.exception(0))
    side.watcher.run()  # ends
    assert side.reader.blocks == []


def test_drained_it_ends_though_it_still_waits_for_calls_of_others(side):
    ended = []
    mine, _others = side.expect(), side.expect(attached=True)
    side.watcher.when_drained(lambda: ended.append(side.watcher.pending()))
    side.run([], [outcome(mine)])
    assert (side.reader.steps, len(ended), side.watcher.busy_since is not None) == ([], 1, True)


def test_the_future_of_a_call_that_will_not_end_says_that_nothing_was_heard_of_it(side):
    future = side.expect()
    side.watcher.fail([future.id, "unknown"], AWAY)
    side.watcher.fail([future.id], FlyExecutorError("later"))
    assert (future.exception(0), future.unheard) == (AWAY, True)
