import logging
import re
import threading
import types

import pytest

from flyexecutor.call import Call, Part
from flyexecutor.client import outbox
from flyexecutor.client.outbox import Outbox
from flyexecutor.errors import FlyExecutorError, RedisUnavailableError
from flyexecutor.lane import Lane
from flyexecutor.store import outage

LANE, OTHER = Lane("lane", {}, (), 1, 1, 60.0), Lane("other", {}, (), 1, 1, 60.0)
AWAY = RedisUnavailableError("away")
DOUBLING = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6]


class ScriptedStore:
    """For each bundle it does a step: raise an error, or call something and take the bundle. Then it takes all."""

    address = "redis://fake"

    def __init__(self):
        self.steps = []
        self.bundles = []
        self.asked = []
        self.parts = []

    def enqueue(self, lane, calls, *, client, result_ttl, reservation):
        self.asked.append((lane.name, client, result_ttl, reservation))
        assert len(self.asked) < 1000, "it tries again and again without a pause"
        step = self.steps.pop(0) if self.steps else None
        if isinstance(step, BaseException):
            raise step
        if step:
            step()
        self.bundles.append([call.id for call in calls])
        return ["r"]

    def put_part(self, part):
        self.parts.append(f"+{part.id}")

    def drop_part(self, part):
        self.parts.append(f"-{part.id}")
        if part.sealed == b"fails":
            raise AWAY


@pytest.fixture
def clock(monkeypatch):
    """In the module under test time passes while it waits, and only then. Each wait first does a step of a test's.

    It goes on before its time only if that step has notified it.
    """
    time = types.SimpleNamespace(now=0.0, pauses=[], steps=[])

    class Condition(threading.Condition):
        def notify_all(self):
            self.notified = True

        def wait(self, timeout=None):
            return self.wait_for(lambda: False, timeout)

        def wait_for(self, predicate, timeout=None):
            time.pauses.append(timeout)
            self.notified = False
            if time.steps:
                time.steps.pop(0)()
            assert self.notified or timeout is not None, "nobody would ever wake it"
            time.now += 0.0 if self.notified and predicate() else timeout or 0.0
            return predicate()

    monkeypatch.setattr(outbox, "threading", types.SimpleNamespace(**{**vars(threading), "Condition": Condition}))
    monkeypatch.setattr(outbox, "time", types.SimpleNamespace(monotonic=lambda: time.now))
    return time


def make_outbox(store):
    heard = []
    made = Outbox(
        store,
        client="c",
        result_ttl=60,
        stored=lambda lane, reservations: heard.append((lane.name, reservations)),
        failed=lambda calls, error: heard.append(([call.id for call in calls], error)),
    )
    made.store, made.heard = store, heard
    return made


@pytest.fixture
def box(clock):
    return make_outbox(ScriptedStore())


def call(name, size=1, **more):
    return Call(name, bytes(size), **more)


def run(box, *names, size=1):
    """Its thread's work, in this one, until all is sent."""
    for name in names:
        box.put(call(name, size), LANE)
    box.close()
    box.run()


def send(box, *calls):
    """One bundle, without an end of its thread."""
    for one in calls:
        box.put(one, LANE)
    box._send(box._gather())


def refusal(text="full"):
    error = RedisUnavailableError(text)
    error.permanent = True
    return error


# Without a thread of its own: each test says what happens when


def test_it_waits_until_there_is_something_and_ends_when_it_is_closed(box, clock):
    clock.steps = [lambda: box.put(call("a"), LANE), lambda: box.drop_part(Part("p", b"")), box.close]
    box.run()
    assert (box.store.bundles, clock.steps) == ([["a"]], [])
    assert clock.pauses == [None] * 3


def test_what_is_there_when_it_is_closed_is_sent(box):
    run(box, "a", "b")
    assert box.store.bundles == [["a", "b"]]
    assert box.heard == [("lane", ["r"])]


def test_a_bundle_is_bounded_in_calls_and_bytes(box, monkeypatch):
    monkeypatch.setattr(outbox, "BUNDLE_CALLS", 2)
    monkeypatch.setattr(outbox, "BUNDLE_BYTES", 100)
    for name, size in (("a", 1), ("b", 1), ("c", 90), ("d", 90), ("e", 900), ("f", 50), ("g", 50), ("h", 1)):
        box.put(call(name, size), LANE)
    run(box)
    assert box.store.bundles == [["a", "b"], ["c"], ["d"], ["e"], ["f", "g"], ["h"]]


def test_a_bundle_has_five_hundred_calls_at_most(box):
    run(box, *map(str, range(501)))
    assert [len(bundle) for bundle in box.store.bundles] == [500, 1]


def test_what_calls_share_counts_for_the_bundle_that_brings_it(box, monkeypatch):
    monkeypatch.setattr(outbox, "BUNDLE_BYTES", 100)
    part, other = Part("p", bytes(60)), Part("q", bytes(60))
    for name, parts in (("a", (part,)), ("b", ()), ("c", (part,)), ("d", (other,)), ("e", (part,))):
        box.put(call(name, parts=parts), LANE)
    run(box)
    assert box.store.bundles == [["a", "b", "c"], ["d", "e"]]


def test_a_bundle_is_for_one_lane(box):
    for name, lane in (("a", LANE), ("b", OTHER), ("c", OTHER), ("d", LANE)):
        box.put(call(name), lane)
    run(box)
    assert box.store.bundles == [["a"], ["b", "c"], ["d"]]
    assert box.heard == [("lane", ["r"]), ("other", ["r"]), ("lane", ["r"])]


def test_a_bundle_that_is_sent_again_is_the_same_bundle_and_no_two_are(box, monkeypatch):
    monkeypatch.setattr(outbox, "BUNDLE_CALLS", 2)
    box.store.steps = [AWAY, AWAY]
    run(box, "a", "b", "c")
    assert box.store.asked == [("lane", "c", 60, "c.1")] * 3 + [("lane", "c", 60, "c.3")]
    assert box.store.bundles == [["a", "b"], ["c"]]


def test_a_call_that_was_taken_back_is_never_sent(box):
    box.put(call("b"), LANE)

    def while_it_is_on_its_way():
        assert not box.take_back("a")
        assert (box.holds("a"), box.holds("b")) == (True, False)

    box.store.steps = [while_it_is_on_its_way]
    assert box.take_back("b")
    assert not box.take_back("b")
    run(box, "a")
    assert box.store.bundles == [["a"]]
    assert not box.holds("a")


def test_who_waits_for_the_fleet_hears_of_a_bundle_before_flush_returns(box):
    box._stored = lambda *_: box.heard.append(box.holds("a"))
    run(box, "a")
    assert box.heard == [True]


@pytest.mark.parametrize(
    ("reached", "pauses"),
    [
        (False, [*DOUBLING, 2.0]),  # more than FIRST_CONTACT: a wrong setting
        (True, [*DOUBLING, *[2.0] * 29]),  # more than OUTAGE
    ],
)
def test_redis_is_given_up_after_five_seconds_if_it_never_answered_and_after_a_minute_if_it_did(
    box, clock, monkeypatch, reached, pauses
):
    monkeypatch.setattr(outbox, "BUNDLE_CALLS", 1)
    box.store.steps = [None] * reached + [AWAY] * len(pauses) + [AWAY]
    run(box, "a", "b")
    assert clock.pauses == pauses
    assert box.heard[reached : reached + 1] == [(["b" if reached else "a"], AWAY)]


@pytest.mark.parametrize(("reached", "patience"), [(False, 5.0), (True, 60.0)])
def test_the_time_until_it_is_given_up_is_waited_out(box, clock, monkeypatch, reached, patience):
    monkeypatch.setattr(outbox, "BUNDLE_CALLS", 1)
    clock.steps = [lambda: setattr(clock, "now", patience - 0.05)]
    box.store.steps = [None] * reached + [AWAY] * 3
    run(box, *"ab"[-1 - reached :])
    assert clock.pauses == [0.05, 0.1]


def test_each_outage_has_its_whole_time_and_one_line_in_the_log(box, clock, monkeypatch, caplog):
    monkeypatch.setattr(outbox, "BUNDLE_CALLS", 1)
    monkeypatch.setattr("flyexecutor.store.outage._now", {})
    box.store.steps = [None, *[AWAY] * 30, None, *[AWAY] * 30]
    with caplog.at_level(logging.WARNING):
        run(box, "a", "b", "c")
    assert clock.now > outbox.OUTAGE
    assert box.store.bundles == [["a"], ["b"], ["c"]]
    assert ["told once" in message for message in caplog.messages] == [True, False, True, False]


def test_closing_cuts_one_pause_short_and_none_after_it(box, clock):
    box.store.steps = [AWAY] * 3
    clock.steps = [box.close]
    box.put(call("a"), LANE)
    box.run()
    assert box.store.bundles == [["a"]]
    assert clock.pauses == [0.05, 0.1, 0.2]
    assert clock.now == pytest.approx(0.3)


def test_a_put_does_not_cut_a_pause_short(box, clock):
    box.store.steps = [AWAY]
    clock.steps = [lambda: box.put(call("b"), LANE)]
    run(box, "a")
    assert (box.store.bundles, clock.now) == ([["a"], ["b"]], 0.05)


def test_a_refusal_fails_the_calls_at_once_and_the_next_flush_raises_it_though_it_comes_later(box, clock):
    error = refusal()
    box.store.steps = [error]
    run(box, "a", "b")
    assert (box.heard, clock.pauses) == ([(["a", "b"], error)], [])
    box.put(call("c"), LANE)
    box.run()  # takes it
    with pytest.raises(RedisUnavailableError, match="full"):
        box.flush(10)
    box.flush(10)  # told once
    box.store.steps = [refusal("again")]
    box.put(call("d"), LANE)
    box.run()
    with pytest.raises(RedisUnavailableError, match="again"):
        box.flush(None)


def test_what_is_on_its_way_when_nobody_sends_any_longer_is_dropped_at_the_next_refusal(box, clock):
    died = FlyExecutorError("a thread has died")

    def give_up():
        box.close(died)
        raise AWAY

    box.store.steps = [AWAY, give_up]
    send(box, call("a"))
    assert clock.pauses == [0.05]
    with pytest.raises(FlyExecutorError, match="a thread has died"):
        box.flush(10)
    box.run()  # ends


def test_what_is_given_up_just_before_it_is_sent_goes_nowhere(box):
    box.put(call("a"), LANE)
    bundle = box._gather()
    box.close(FlyExecutorError("a thread has died"))
    box._send(bundle)
    assert box.store.bundles == []


def test_flush_waits_for_what_was_put_before_and_not_for_what_comes_after(box, clock):
    def meanwhile():
        box.put(call("b"), OTHER)
        box.store.steps = [None, KeyboardInterrupt()]  # "b" is on its way for ever
        with pytest.raises(KeyboardInterrupt):
            box.run()

    clock.steps = [meanwhile]
    box.put(call("a"), LANE)
    box.flush(None)
    assert (box.store.bundles, box.holds("b"), clock.steps) == ([["a"]], True, [])


@pytest.mark.parametrize("end", [lambda box: box.take_back("a"), send], ids=["taken back", "sent"])
def test_flush_is_woken_when_there_is_nothing_left_to_wait_for(box, clock, end):
    box.put(call("a"), LANE)
    clock.steps = [lambda: end(box)]
    box.flush(None)
    assert not box.holds("a")


def test_flush_raises_when_the_time_is_over_and_tells_what_it_is_that_it_waits_for(box, clock, monkeypatch):
    def while_redis_is_away():
        with pytest.raises(RedisUnavailableError, match=r"^away$"):
            box.flush(0.5)
        assert clock.now == 1.0

    def while_redis_takes_its_time():
        said = "Redis at redis://fake did not take the calls within 0.5 s: give flush more time, or check the server"
        began = clock.now
        with pytest.raises(RedisUnavailableError, match=f"^{re.escape(said)}$"):
            box.flush(0.5)
        assert clock.now == began + 0.5

    monkeypatch.setattr(outbox, "BUNDLE_CALLS", 1)
    box.store.steps = [while_redis_takes_its_time, AWAY, None, while_redis_takes_its_time]
    clock.steps = [lambda: None, while_redis_is_away]
    run(box, "a", "b", "c")
    box.flush(0)
    assert box.store.bundles == [["a"], ["b"], ["c"]]


def test_only_while_redis_is_away_the_outbox_is_bounded(box, clock, monkeypatch):
    monkeypatch.setattr(outbox, "HELD_BYTES", 10)
    monkeypatch.setattr(outbox, "BUNDLE_CALLS", 1)

    def while_redis_is_away():  # "d" is held, with 4 bytes
        box.put(call("e", 6), LANE)
        with pytest.raises(RedisUnavailableError, match="away"):
            box.put(call("f", 1), LANE)
        assert box.take_back("e")
        box.put(call("f", 5), LANE)
        with pytest.raises(RedisUnavailableError, match="away"):
            box.put(call("g", 2), LANE)

    box.store.steps = [None, None, None, AWAY]
    clock.steps = [while_redis_is_away]
    run(box, "a", "b", "c", "d", size=4)
    assert box.store.bundles == [["a"], ["b"], ["c"], ["d"], ["f"]]


def test_while_redis_is_away_256_mebibytes_are_held_and_no_more(box, clock):
    def while_it_is_away():
        box.put(call("b", 256 * 1024 * 1024 - 1), LANE)
        with pytest.raises(RedisUnavailableError, match="away"):
            box.put(call("c", 1), LANE)

    box.store.steps = [AWAY]
    clock.steps = [while_it_is_away]
    run(box, "a")
    assert box.store.bundles == [["a"], ["b"]]


def test_what_was_given_up_is_told_once_and_makes_room(box, clock, monkeypatch):
    monkeypatch.setattr(outbox, "HELD_BYTES", 10)
    box.store.steps = [refusal()]
    run(box, "a", size=9)
    with pytest.raises(RedisUnavailableError, match="full"):
        box.flush(10)
    box.flush(10)
    with pytest.raises(RedisUnavailableError, match="full"):
        box.put(call("b", 11), LANE)
    box.put(call("c", 10), LANE)
    box.run()
    assert box.store.bundles == [["c"]]


def test_what_calls_share_is_stored_before_them_once_and_removed_when_nobody_needs_it(box, caplog):
    caplog.set_level(logging.INFO)
    part, other = Part("p", b""), Part("q", b"fails")
    box.put(call("a", parts=(part,)), LANE)
    box.put(call("b", parts=(part, other)), LANE)
    box.store.steps = [lambda: box.store.parts.append("calls")]
    run(box)
    box.put(call("c", parts=(part,)), LANE)
    box.drop_part(Part("unknown", b""))
    box.run()
    assert box.store.parts == ["+p", "+q", "calls"]
    box.drop_part(other)
    box.drop_part(part)
    box.drop_part(part)
    box.run()
    assert box.store.parts[3:] == ["-q", "-p"]
    (told,) = caplog.messages  # what could not be removed expires
    assert told.endswith(": away")
    assert box.store.bundles == [["a", "b"], ["c"]]


def test_what_calls_share_is_stored_again_when_no_call_has_needed_it_for_a_while(box, clock):
    for name, later in (("a", 0.0), ("b", 99.0), ("c", 99.0)):
        clock.now += later
        send(box, call(name, parts=(Part("p", b""),)))
    assert box.store.parts == ["+p"]
    clock.now += 100.0
    send(box, call("d", parts=(Part("p", b""),)))
    assert box.store.parts == ["+p", "+p"]


def test_what_calls_share_is_stored_again_after_an_outage(box):
    send(box, call("a", parts=(Part("p", b""),)))
    box.store.steps = [AWAY]
    send(box, call("b", parts=(Part("p", b""),)))
    assert box.store.parts == ["+p", "+p"]


# With its thread


class GatedStore(ScriptedStore):
    """A store that lets a test decide when a bundle is taken."""

    def __init__(self):
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def enqueue(self, lane, calls, **options):
        self.entered.release()
        assert self.gate.acquire(timeout=10)
        return super().enqueue(lane, calls, **options)


@pytest.fixture
def running():
    box = make_outbox(GatedStore())
    thread = threading.Thread(target=box.run)
    thread.start()
    yield box
    box.close()
    box.store.gate.release(100)
    thread.join(10)
    assert not thread.is_alive()


def test_what_gathers_while_one_bundle_is_on_its_way_is_the_next_bundle(running):
    running.put(call("a"), LANE)
    assert running.store.entered.acquire(timeout=10)
    for name in "bcd":
        running.put(call(name), LANE)
    running.store.gate.release(2)
    running.flush(10)
    assert running.store.bundles == [["a"], ["b", "c", "d"]]


def test_flush_returns_when_the_bundle_is_taken(running):
    running.put(call("a"), LANE)
    assert running.store.entered.acquire(timeout=10)
    flushed = threading.Thread(target=running.flush, args=(10,))
    flushed.start()
    running.store.gate.release()
    flushed.join(5)
    assert not flushed.is_alive()


def test_an_outage_is_waited_out(running):
    running.store.steps = [AWAY]
    running.put(call("a"), LANE)
    running.store.gate.release(2)
    running.flush(10)
    assert running.store.bundles == [["a"]]


def test_who_cancels_waits_for_what_is_on_its_way_and_for_nothing_else(box, clock):
    waited = []

    def wait(*names):
        clock.steps = [box._changed.notify_all]  # something has changed: is it done?
        before = clock.now
        box.await_sent(iter(names), 2.0)
        waited.append(clock.now - before)

    def while_a_is_sent():
        wait("b", "c")
        wait("c", "a")

    box.store.steps = [while_a_is_sent]
    run(box, "a")
    wait("a")
    assert waited == [0.0, 2.0, 0.0]


def test_an_outage_is_known_by_the_address_of_the_server(box):
    known = []
    box.store.steps = [AWAY, lambda: known.append(box.store.address in outage._now)]
    run(box, "a")
    assert known == [True]
    assert box.store.address not in outage._now
