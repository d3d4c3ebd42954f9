"""Tampered, replayed or foreign payloads are refused before they are unpickled; the call fails with PayloadError."""

import time
from concurrent.futures import CancelledError

import pytest
import redis

from flyexecutor import CallKilledError, ExpiredCallError, MachineLostError, PayloadError
from flyexecutor.payload import pickles
from flyexecutor.payload.trust import Trust
from flyexecutor.states import State
from flyexecutor.terms import UNREAD, answer_to, new_terms
from tests import tasks

WAIT = 30.0


@pytest.fixture
def writer(local_fly):
    """Somebody who can write to Redis, and has no key."""
    with redis.Redis.from_url(local_fly.redis_url) as client:
        yield client


def hold_queue(make_executor, tmp_path):
    """An executor whose only machine is busy, so that its next call stays in Redis for a while."""
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    executor.submit(gate.enter)
    gate.wait_for_entry()
    return executor, gate


def key_of(executor, future, writer):
    executor.flush(WAIT)
    (key,) = writer.keys(f"*:call:{future.id}")
    return key


def foreign(sealed, call_id):
    trust = Trust(b"x" * 32, "local")
    return trust.seal_call(call_id, UNREAD, sealed[-20:])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda sealed, _: sealed[:-1] + bytes([sealed[-1] ^ 1]), "does not verify"),
        (lambda sealed, _: sealed[:-5], "does not verify"),
        (lambda sealed, _: sealed[:20], "is truncated"),
        (lambda *_: b"", "is truncated"),
        (foreign, "signed with key"),
        (lambda sealed, _: sealed[:2] + b"\0" + sealed[3:], "has format 0"),
        (lambda sealed, _: b"{" + sealed, "has format"),
    ],
    ids=["changed", "shortened", "cut to its head", "emptied", "foreign key", "old format", "another format"],
)
def test_a_call_that_was_tampered_with_is_refused(make_executor, tmp_path, writer, change, told):
    executor, gate = hold_queue(make_executor, tmp_path)
    future = executor.submit(tasks.append_line, tmp_path / "ran", "changed")
    key = key_of(executor, future, writer)
    writer.hset(key, "call", change(writer.hget(key, "call"), future.id))
    gate.open()
    error = future.exception(WAIT)
    assert isinstance(error, PayloadError)
    assert told in str(error)
    assert not (tmp_path / "ran").exists()


def test_a_call_moved_to_another_id_is_refused(make_executor, tmp_path, writer):
    executor, gate = hold_queue(make_executor, tmp_path)
    one = executor.submit(tasks.append_line, tmp_path / "ran", "one")
    two = executor.submit(tasks.increment, 1)
    writer.hset(key_of(executor, two, writer), "call", writer.hget(key_of(executor, one, writer), "call"))
    gate.open()
    assert isinstance(two.exception(WAIT), PayloadError)
    assert one.result(WAIT) is None


def test_how_long_a_call_may_run_is_not_for_redis_to_say(make_executor, tmp_path, writer):
    executor, gate = hold_queue(make_executor, tmp_path)
    future = executor.submit(time.sleep, 1.0)
    writer.hset(key_of(executor, future, writer), "timeout", "0.1")
    gate.open()
    assert future.result(WAIT) is None


def refused(future, why):
    error = future.exception(WAIT)
    assert isinstance(error, PayloadError)
    assert "does not belong here" in str(error)
    assert why in str(error)


def queue_again(writer, key, record, lane):
    """What whoever has kept a copy of a call's record can do: the call waits as if it had never been claimed."""
    writer.delete(key)
    writer.hset(key, mapping=record)
    call_id = key.rpartition(b":")[2]
    queue = key.split(b":call:")[0] + b":queue:" + lane.encode()
    writer.zadd(queue, {call_id: 1})
    writer.hset(key, "lane", lane)


def test_a_call_put_into_the_inbox_of_another_lane_does_not_run_there(make_executor, tmp_path, writer):
    executor, gate = hold_queue(make_executor, tmp_path)
    other = make_executor(env={"OTHER": "lane"}, max_workers=1, idle_timeout=WAIT)
    machine = other.submit(tasks.machine_id).result(WAIT)
    future = executor.submit(tasks.append_line, tmp_path / "ran", "moved")
    key = key_of(executor, future, writer)
    inbox = key.split(b":call:")[0] + b":inbox:" + machine.encode()
    writer.xadd(inbox, {"call": f"{future.id} 1 - 0 0 ", "body": writer.hget(key, "call"), "name": ""})
    assert other.submit(tasks.increment, 1).result(WAIT) == 2  # behind it
    assert not (tmp_path / "ran").exists()
    gate.open()
    future.result(WAIT)
    assert (tmp_path / "ran").read_text() == "moved\n"
    assert future.machine_id != machine


def test_a_call_moved_to_another_lane_does_not_run_there(make_executor, tmp_path, writer):
    executor, gate = hold_queue(make_executor, tmp_path)
    other = make_executor(env={"OTHER": "lane"})
    assert other.submit(tasks.increment, 1).result(WAIT) == 2  # it has a queue
    future = executor.submit(tasks.append_line, tmp_path / "ran", "moved")
    key = key_of(executor, future, writer)
    queue_again(writer, key, writer.hgetall(key), other._lane.name)
    assert other.submit(tasks.increment, 1).result(WAIT) == 2  # and a machine
    refused(future, f"it was made for the lane {executor._lane.name}, and this machine is of the lane")
    gate.open()
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [True, False], ids=["submit", "map"])
def test_a_call_that_has_ended_does_not_run_again_on_its_machine(make_executor, tmp_path, writer, keep):
    executor, gate = hold_queue(make_executor, tmp_path)
    before = set(writer.keys("*:call:*"))
    if keep:
        future = executor.submit(tasks.append_line, tmp_path / "ran", "once")
    else:
        results = executor.map(tasks.append_line, [tmp_path / "ran"], ["once"])
    executor.flush(WAIT)
    (key,) = set(writer.keys("*:call:*")) - before
    record = writer.hgetall(key)
    gate.open()
    assert (future.result(WAIT) if keep else next(results)) is None
    queue_again(writer, key, record, executor._lane.name)
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2  # it comes after the one that was put there again
    assert (tmp_path / "ran").read_text() == "once\n"


def test_junk_that_bears_the_terms_of_a_call_does_not_keep_it_from_running(make_executor, tmp_path, writer):
    executor, gate = hold_queue(make_executor, tmp_path)
    junk = executor.submit(tasks.increment, 1)
    future = executor.submit(tasks.increment, 1)
    record = writer.hgetall(key_of(executor, future, writer))
    sealed = record[b"call"]
    writer.hset(key_of(executor, junk, writer), "call", sealed[:-1] + bytes([sealed[-1] ^ 1]))
    gate.open()
    assert isinstance(junk.exception(WAIT), PayloadError)
    assert future.result(WAIT) == 2


def test_a_call_that_is_lost_too_often_is_refused_whatever_redis_says_of_its_retries(make_executor, tmp_path, writer):
    executor, gate = hold_queue(make_executor, tmp_path)
    future = executor.with_options(retries=1).submit(tasks.append_line, tmp_path / "ran", "lost")
    writer.hset(key_of(executor, future, writer), mapping={"retries": 1000, "losses": 2})
    gate.open()
    refused(future, "its machine was lost 2 times, and it was made with retries=1")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("age", "expires", "why"),
    [(8 * 86400.0, None, "it was made 8.0 days ago"), (7300.0, 20.0, "by its submitter's clock, with expires=20")],
    ids=["7 days", "expires"],
)
def test_a_call_whose_time_is_over_is_refused(make_executor, tmp_path, monkeypatch, age, expires, why):
    def in_the_past(lanes, **told):
        return new_terms(lanes, **told)._replace(made_at=time.time() - age)

    monkeypatch.setattr("flyexecutor.client.caller.new_terms", in_the_past)
    executor = make_executor()
    refused(executor.with_options(expires=expires).submit(tasks.append_line, tmp_path / "ran", "old"), why)
    assert not (tmp_path / "ran").exists()


def test_a_forged_outcome_is_refused(make_executor, tmp_path, writer):
    executor, gate = hold_queue(make_executor, tmp_path)
    future = executor.submit(tasks.increment, 1)
    key = key_of(executor, future, writer)
    (client,) = writer.hget(key, "watch").decode().split()
    stream = key.split(b":call:")[0] + b":outcomes:" + client.encode()
    head = f"{future.id} SUCCEEDED 1 m - - 0 0 0"
    writer.xadd(stream, {"head": head, "body": b"cos\nsystem\n(S'true'\ntR."})
    assert isinstance(future.exception(WAIT), PayloadError)
    gate.open()


def stream_of(executor, future, writer):
    key = key_of(executor, future, writer)
    (client,) = writer.hget(key, "watch").decode().split()
    return key.split(b":call:")[0] + b":outcomes:" + client.encode()


def entries_of(writer, stream, call_id):
    return [fields for _, fields in writer.xrange(stream) if call_id.encode() in fields.get(b"head", b"")]


def test_an_outcome_of_another_call_or_attempt_is_refused(make_executor, tmp_path, writer):
    executor, gate = hold_queue(make_executor, tmp_path)
    other = make_executor(env={"OTHER": "lane"})
    done = other.submit(tasks.increment, 41)
    assert done.result(WAIT) == 42
    (key,) = writer.keys(f"*:call:{done.id}")
    sealed = writer.hget(key, "outcome")
    for attempt, told in ((1, "does not verify"), (2, "does not verify")):
        future = executor.submit(tasks.increment, 1)
        head = f"{future.id} SUCCEEDED {attempt} m - - 0 0 0"
        writer.xadd(stream_of(executor, future, writer), {"head": head, "body": sealed})
        error = future.exception(WAIT)
        assert isinstance(error, PayloadError)
        assert told in str(error)
    gate.open()


def test_an_outcome_that_is_replayed_for_a_later_attempt_is_refused(make_executor, writer):
    first = make_executor(max_workers=1).submit(tasks.increment, 41)
    assert first.result(WAIT) == 42
    (key,) = writer.keys(f"*:call:{first.id}")
    sealed = writer.hget(key, "outcome")
    writer.hset(key, "attempt", 2)
    error = make_executor().future(first.id).exception(WAIT)
    assert isinstance(error, PayloadError)
    writer.hset(key, mapping={"attempt": 1, "outcome": sealed})
    assert make_executor().future(first.id).result(WAIT) == 42


@pytest.mark.parametrize(
    ("fn", "told", "is_so"), [(tasks.increment, "FAILED", "SUCCEEDED"), (chr, "SUCCEEDED", "FAILED")]
)
def test_whether_a_call_succeeded_is_not_for_redis_to_say(make_executor, writer, fn, told, is_so):
    executor = make_executor(max_workers=1)
    ours = executor.submit(fn, -1)
    value = ours.exception(WAIT) is None and ours.result()
    (key,) = writer.keys(f"*:call:{ours.id}")
    writer.hset(key, "state", told)
    other = make_executor().future(ours.id)
    for future in (ours, other):
        assert (future.exception(WAIT) is None and future.result()) == value
        assert (future.state(), future.info().state) == (is_so, is_so)


def test_a_word_of_redis_ends_a_call_with_an_error_only(make_executor, tmp_path, writer):
    executor, gate = hold_queue(make_executor, tmp_path)
    futures = [executor.submit(tasks.increment, 1) for _ in range(3)]
    for future, word in zip(futures, ("LOST", "KILLED", "CANCELLED"), strict=True):
        head = f"{future.id} {word} 1 m - - 0 0 0"
        writer.xadd(stream_of(executor, future, writer), {"head": head, "body": b"\x80\x05K\x2a."})
    assert isinstance(futures[0].exception(WAIT), MachineLostError)
    assert isinstance(futures[1].exception(WAIT), CallKilledError)
    with pytest.raises(CancelledError):
        futures[2].result(WAIT)
    gate.open()


def test_an_outcome_of_another_submit_is_refused(make_executor, tmp_path, writer):
    executor, gate = hold_queue(make_executor, tmp_path)
    future = executor.submit(tasks.increment, 1)
    dumped = pickles.dump_value(42)
    for terms in (UNREAD, new_terms([], result_ttl=60.0)):
        sealed = executor._trust.seal_outcome(future.id, 1, answer_to(terms, State.SUCCEEDED), dumped.body)
        head = f"{future.id} SUCCEEDED 1 m - - 0 0 0"
        writer.xadd(stream_of(executor, future, writer), {"head": head, "body": sealed})
        error = future.exception(WAIT)
        assert isinstance(error, PayloadError)
        assert "answers another submit" in str(error)
        assert future.state() is State.FAILED
        future = executor.submit(tasks.increment, 1)
    gate.open()
    assert future.result(WAIT) == 2


@pytest.mark.parametrize("by", ["submit", "future"])
def test_an_outcome_that_has_expired_is_no_answer_to_a_key(make_executor, writer, monkeypatch, by):
    first = make_executor(max_workers=1).with_options(key=f"{by}-{time.time()}")
    future = first.submit(tasks.increment, 41)
    assert future.result(WAIT) == 42
    (key,) = writer.keys(f"*:call:{future.id}")
    record = writer.hgetall(key)
    writer.delete(key)  # it has expired,
    writer.hset(key, mapping=record)  # and somebody who has kept it puts it back,
    a_day_later = -86400.0 - 60.0  # the usual result_ttl
    monkeypatch.setattr("flyexecutor.client.watcher.CLOCKS_DIFFER", a_day_later)
    other = make_executor(max_workers=1).with_options(key=first._options.key)
    again = other.submit(tasks.increment, 41) if by == "submit" else other.future(future.id)
    error = again.exception(WAIT)
    assert isinstance(error, ExpiredCallError)
    assert "somebody has put it back" in str(error)


def test_an_item_that_is_forged_is_refused(make_executor, tmp_path, writer):
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)

    def make():
        gate.enter()
        yield 1

    stream = executor.stream(make)
    gate.wait_for_entry()
    report = f"{stream.future.id} 1 item 0 -"
    writer.xadd(stream_of(executor, stream.future, writer), {"report": report, "body": b"cos\nsystem\n(S'true'\ntR."})
    with pytest.raises(PayloadError):
        next(stream)
    gate.open()
    assert stream.future.result(WAIT) == 1


def test_a_shared_part_that_was_tampered_with_is_refused(make_executor, tmp_path, writer):
    executor, gate = hold_queue(make_executor, tmp_path)
    before = set(writer.keys("*:piece:*"))
    results = executor.map(len, [bytes(range(256)) * 2000])
    executor.flush(WAIT)
    (key,) = set(writer.keys("*:piece:*")) - before
    writer.setrange(key, 100_000, b"changed")
    gate.open()
    with pytest.raises(PayloadError):
        next(results)
