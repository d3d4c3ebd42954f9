"""Beside `map`: other orders, other answers, streams and batches; and what a fan-out costs when it is left."""

import inspect
import itertools
import os
import threading
import time
import traceback

import pytest

from flyexecutor import (
    ExpiredCallError,
    Retry,
    State,
    UnknownCallError,
    WorkerCrashedError,
)
from flyexecutor.client.attaching import STORED_WITHIN
from tests import tasks

WAIT = 30.0


@pytest.fixture
def gate(tmp_path):
    return tasks.Gate.make(tmp_path)


def test_starmap_takes_arguments_that_are_tuples(executor):
    assert list(executor.starmap(pow, [(2, n) for n in range(5)], chunksize=2)) == [1, 2, 4, 8, 16]


def test_unordered_results_come_as_they_are_ready(make_executor, gate):
    executor = make_executor(max_workers=2)
    results = executor.map_unordered(lambda n: gate.enter() and n if n == 0 else n, range(6))
    assert sorted(itertools.islice(results, 5)) == [1, 2, 3, 4, 5]  # while the first is at the gate
    gate.wait_for_entry()
    gate.open()
    assert list(results) == [0]


def test_unordered_results_with_a_buffer_draw_their_input_lazily(executor):
    drawn = []
    results = executor.map_unordered(tasks.increment, (drawn.append(n) or n for n in itertools.count()), buffersize=3)
    for _ in range(5):
        next(results)
    assert len(drawn) <= 5 + 3
    results.close()


@pytest.mark.parametrize("chunksize", [1, 4, 300])
@pytest.mark.parametrize("way", ["map", "map_unordered"])
def test_one_bad_item_of_280_does_not_cost_the_others(executor, way, chunksize):
    numbers = range(280)
    fan_out = getattr(executor, way)
    results = list(fan_out(tasks.fail_on, [133] * 280, numbers, chunksize=chunksize, return_exceptions=True))
    bad = [result for result in results if isinstance(result, Exception)]
    assert [str(error) for error in bad] == ["133 is bad"]
    assert "in fail_on" in str(bad[0].__cause__)
    assert any("on machine" in note for note in bad[0].__notes__)
    assert sorted(result for result in results if isinstance(result, int)) == [n for n in numbers if n != 133]


def items_noted(error):
    return [note for note in error.__notes__ if "of the map" in note]


@pytest.mark.parametrize("chunksize", [1, 4, 300])
@pytest.mark.parametrize("way", ["map", "map_unordered"])
def test_the_note_of_an_exception_names_its_item(make_executor, tmp_path, way, chunksize):
    executor = make_executor(retries=Retry(attempts=2, wait=0.01, on=OSError, lost=1))

    def work(number):
        if number == 7:
            tasks.raise_value_error("of 7")
        if number == 8:
            tasks.raise_at_first(tmp_path / "ran", 2, OSError("of 8"))
        return number

    results = list(getattr(executor, way)(work, range(10), chunksize=chunksize, return_exceptions=True))
    for error in (result for result in results if isinstance(result, Exception)):
        assert items_noted(error) == [f"item {str(error)[-1]} of the map (the first is item 0)"]
    assert sorted(str(result) for result in results) == [*"01234569", "of 7", "of 8"]


def test_so_does_that_of_an_item_that_ends_its_process_and_that_of_a_chunk_that_is_not_split(make_executor):
    executor = make_executor()
    with pytest.raises(WorkerCrashedError) as raised:
        list(executor.map(tasks.crash_on, [5] * 8, range(8), chunksize=8))
    assert items_noted(raised.value) == ["item 5 of the map (the first is item 0)"]
    once = executor.with_options(retries=0).map(tasks.crash_on, [5] * 8, range(8), chunksize=4, return_exceptions=True)
    assert list(itertools.islice(once, 4)) == [0, 1, 2, 3]
    for error in once:
        assert items_noted(error) == ["items 4 to 7, which were one call, of the map (the first is item 0)"]


def test_the_results_before_an_item_that_raises_are_delivered_whatever_the_chunks(executor):
    results = executor.map(tasks.fail_on, itertools.repeat(5), range(10), chunksize=10)
    assert list(itertools.islice(results, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="5 is bad"):
        next(results)


def test_what_a_notebook_shows_of_a_traceback_is_all_there(executor):
    """IPython prints the arguments of each frame."""
    with pytest.raises(ValueError, match="5 is bad") as raised:
        list(executor.map(tasks.fail_on, [5], [5]))
    for frame, _ in traceback.walk_tb(raised.value.__traceback__):
        inspect.formatargvalues(*inspect.getargvalues(frame))


def test_of_a_chunk_whose_process_dies_only_the_guilty_item_fails(executor):
    results = list(executor.map(tasks.crash_on, itertools.repeat(11), range(20), chunksize=20, return_exceptions=True))
    assert [n for n, result in enumerate(results) if isinstance(result, WorkerCrashedError)] == [11]
    assert [result for result in results if isinstance(result, int)] == [n for n in range(20) if n != 11]


def test_the_rest_is_cancelled_when_an_item_raises_or_the_iterator_is_closed(make_executor, tmp_path):
    for name, leave in (("raises", list), ("closed", lambda results: results.close())):
        executor = make_executor(max_workers=1, env={"CASE": name})
        folder = tmp_path / name
        folder.mkdir()
        gate = tasks.Gate.make(folder)

        def work(number, gate=gate):
            if number == 1:
                gate.enter()
            if number > 1:
                tasks.append_line(gate.folder / "ran", "x")
            return tasks.fail_on(0 if gate.folder.name == "raises" else -1, number)

        results = executor.map(work, range(50))
        if name == "closed":
            assert next(results) == 0
        gate.wait_for_entry()
        if name == "raises":
            with pytest.raises(ValueError, match="0 is bad"):
                leave(results)
        else:
            leave(results)
        gate.open()
        assert executor.submit(tasks.increment, 1).result(WAIT) == 2
        assert not (folder / "ran").exists()


def test_items_of_a_generator_come_while_it_runs(make_executor, gate):
    def make():
        yield 1
        gate.enter()
        yield 2

    stream = make_executor().stream(make)
    assert next(stream) == 1
    gate.wait_for_entry()
    assert not stream.future.done()
    gate.open()
    assert list(stream) == [2]
    assert list(stream) == []


def test_items_may_be_many_or_large_and_keep_their_order(executor):
    assert list(executor.stream(tasks.count_to, 5000)) == list(range(5000))
    large = list(executor.stream(lambda: (bytes([n]) * 400_000 for n in range(5))))
    assert [(item[0], len(item)) for item in large] == [(n, 400_000) for n in range(5)]


def test_an_exception_of_a_generator_comes_after_its_items(executor):
    stream = executor.stream(tasks.fail_after, 3)
    assert list(itertools.islice(stream, 3)) == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="no more"):
            next(stream)


def test_items_that_came_before_a_machine_was_lost_do_not_come_twice(make_executor, gate, machine_api):
    def make():
        yield from range(3)
        gate.enter()
        yield 3

    stream = make_executor(max_workers=1).stream(make)
    assert list(itertools.islice(stream, 3)) == [0, 1, 2]
    machine_api(gate.wait_for_entry(), "signal", signal="SIGKILL")
    gate.wait_for_entry()
    gate.open()
    assert list(stream) == [3]
    assert stream.future.attempt == 2


def test_a_stream_that_is_closed_ends_its_call(make_executor, gate):
    def make():
        yield 1
        tasks.hang(gate)

    stream = make_executor().stream(make)
    next(stream)
    gate.wait_for_entry()
    stream.close()
    assert stream.future.exception(WAIT)
    assert stream.future.state() is State.KILLED


def test_a_function_that_yields_nothing_can_not_be_streamed(executor):
    with pytest.raises(TypeError, match="not iterable"):
        next(executor.stream(tasks.increment, 1))


def test_a_client_that_takes_no_items_does_not_fill_redis(make_executor, gate, monkeypatch, local_redis):
    executor = make_executor(max_workers=1)
    held, go = threading.Event(), threading.Event()
    inner = executor._client._watcher._reader.read

    def read(block):
        if executor._client._watcher._streams:
            held.set()
            assert go.wait(WAIT)
        return inner(block)

    executor.submit(tasks.increment, 1).result(WAIT)
    monkeypatch.setattr(executor._client._watcher._reader, "read", read)
    stream = executor.stream(tasks.count_to, 20_000)
    assert held.wait(WAIT)
    key = f"fly:{{{executor._settings.app}}}:outcomes:{executor._client._id}"
    seen = 0
    while seen < 2000:
        seen = local_redis.xlen(key)
    for _ in range(200):
        seen = max(seen, local_redis.xlen(key))
    assert seen < 15_000
    go.set()
    assert list(stream) == list(range(20_000))


def test_a_batch_has_one_id_by_which_another_process_attaches(make_executor):
    asked, other = make_executor(), make_executor()
    batch = asked.submit_batch(tasks.increment, range(10))
    asked.flush(WAIT)
    attached = other.batch(batch.id)
    assert list(attached.results(WAIT)) == list(batch.results(WAIT)) == list(range(1, 11))
    assert [future.id for future in attached.futures] == [future.id for future in batch.futures]
    assert (len(attached), attached.counts()) == (10, {"SUCCEEDED": 10})


def test_a_batch_counts_its_calls_by_state(make_executor, gate):
    executor = make_executor(max_workers=1)
    batch = executor.submit_batch(lambda n: gate.enter() if n == 1 else tasks.fail_on(0, n), range(5))
    gate.wait_for_entry()
    executor.flush(WAIT)
    counts = batch.counts()
    while counts["FAILED"] == 0:
        counts = batch.counts()
    assert counts == {"FAILED": 1, "RUNNING": 1, "QUEUED": 3}
    batch.futures[4].cancel()
    assert batch.counts() == {"FAILED": 1, "RUNNING": 1, "QUEUED": 2, "CANCELLED": 1}
    gate.open()
    assert batch.wait(WAIT)
    assert batch.counts() == {"FAILED": 1, "SUCCEEDED": 3, "CANCELLED": 1}


def test_a_batch_that_is_cancelled_runs_no_further(make_executor, gate):
    executor = make_executor(max_workers=1)
    batch = executor.submit_batch(lambda n: gate.enter() if n == 0 else n, range(5))
    gate.wait_for_entry()
    batch.cancel()
    gate.open()
    assert batch.wait(WAIT)
    assert batch.counts() == {"SUCCEEDED": 1, "CANCELLED": 4}


def test_expired_and_unknown_batches_are_told_apart(make_executor, local_redis, monkeypatch):
    executor = make_executor()
    batch = executor.submit_batch(tasks.increment, range(2))
    assert batch.wait(WAIT)
    with pytest.raises(UnknownCallError, match=f"^{batch.id} is the id of a batch, not of a call: use batch"):
        executor.future(batch.id)
    with pytest.raises(UnknownCallError, match=f"^{batch.futures[0].id} is the id of a call, not of a batch: use fut"):
        executor.batch(batch.futures[0].id)
    local_redis.delete(*local_redis.keys(f"*:call:{batch.futures[0].id}"))
    other = make_executor().batch(batch.id)
    assert other.counts() == {"EXPIRED": 1, "SUCCEEDED": 1}
    assert isinstance(other.futures[0].exception(), ExpiredCallError)
    local_redis.delete(*local_redis.keys(f"*:call:{batch.futures[1].id}"))
    monkeypatch.setattr("flyexecutor.client.attaching.STORED_WITHIN", 0.0)
    with pytest.raises(ExpiredCallError, match=batch.id):
        make_executor().batch(batch.id)
    with pytest.raises(UnknownCallError, match="no batch has the id"):
        executor.batch("f" * 48)


def test_a_batch_without_calls_is_one_for_whoever_asks(make_executor):
    batch = make_executor().submit_batch(tasks.increment, [])
    assert (len(make_executor().batch(batch.id)), batch.counts()) == (0, {})


def test_an_iterable_that_raises_halfway_submits_nothing_of_a_batch(make_executor, tmp_path):
    def words():
        yield "one"
        raise ValueError("no more")

    executor = make_executor(max_workers=1)
    with pytest.raises(ValueError, match="no more"):
        executor.submit_batch(tasks.append_line, [tmp_path / "ran"] * 2, words())
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2  # what had been submitted before would have run
    assert not (tmp_path / "ran").exists()


def test_a_batch_that_is_on_its_way_is_whole_for_whoever_asks(make_executor, monkeypatch):
    asked, other = make_executor(max_workers=1), make_executor()
    go, batch_ids = threading.Event(), []
    enqueue = asked._client.store.enqueue

    def slow(lane, calls, **told):
        if calls[0].id != batch_ids[0]:
            assert go.wait(WAIT)
        return enqueue(lane, calls, **told)

    new_batch_id = asked._trust.new_batch_id

    def note(number):
        batch_id = new_batch_id(number)
        batch_ids.extend(asked._trust.calls_of_batch(batch_id))
        return batch_id

    monkeypatch.setattr(asked._trust, "new_batch_id", note)
    monkeypatch.setattr(asked._client.store, "enqueue", slow)
    monkeypatch.setattr("flyexecutor.client.outbox.BUNDLE_CALLS", 1)
    batch = asked.submit_batch(tasks.increment, range(3))
    assert batch.futures[0].result(WAIT) == 1
    attached = other.batch(batch.id)
    assert [future.id for future in attached.futures] == batch_ids
    assert attached.counts() == {"SUCCEEDED": 1, "QUEUED": 2}
    go.set()
    assert list(attached.results(WAIT)) == [1, 2, 3]
    assert [future.name for future in attached.futures] == ["increment"] * 3


def test_what_was_never_stored_of_a_batch_ends_as_expired(make_executor, local_redis, monkeypatch):
    executor = make_executor(max_workers=1)
    batch = executor.submit_batch(tasks.increment, range(2))
    assert batch.wait(WAIT)
    local_redis.delete(*local_redis.keys(f"*:call:{batch.futures[1].id}"))
    other = make_executor()
    made_at = other._trust.made_at
    monkeypatch.setattr(other._trust, "made_at", lambda batch_id: made_at(batch_id) + 7200.0)  # its clock is behind
    attached = other.batch(batch.id)
    assert not attached.futures[1].done()
    assert attached.futures[1].comes_by <= time.monotonic() + STORED_WITHIN
    attached.futures[1].comes_by = time.monotonic()  # it is minutes later
    with pytest.raises(ExpiredCallError, match="it was never stored"):
        attached.futures[1].result(WAIT)
    assert attached.counts() == {"SUCCEEDED": 1, "EXPIRED": 1}


def test_a_state_that_redis_makes_up_is_not_counted_for_what_is_known(make_executor, local_redis):
    batch = make_executor(max_workers=1).submit_batch(tasks.fail_on, [0, 1], [0, 0])
    assert batch.wait(WAIT)
    for future in batch.futures:
        (key,) = local_redis.keys(f"*:call:{future.id}")
        local_redis.hset(key, "state", "KILLED")
    assert batch.counts() == {"FAILED": 1, "SUCCEEDED": 1}


def test_a_repeated_large_argument_and_a_large_function_are_sent_once(make_executor, local_redis):
    executor = make_executor(max_workers=2)
    # What finds its script unknown to a new server is sent again with it.
    assert executor.submit(len, os.urandom(500_000)).result(WAIT) == 500_000
    local_redis.config_resetstat()
    large, table = os.urandom(2_000_000), os.urandom(500_000)

    def look_up(data, n):
        return data[n] + table[n]

    expected = [large[n] + table[n] for n in range(40)]
    assert list(executor.map(look_up, [large] * 40, range(40))) == expected
    sent = local_redis.info("stats")["total_net_input_bytes"]
    assert sent < 4_000_000


def test_a_large_argument_that_changes_between_items_is_sent_as_it_is_then(executor):
    data = bytearray(600_000)

    def items():
        for n in range(3):
            data[0] = n
            yield data

    assert list(executor.map(lambda one: one[0], items())) == [0, 1, 2]


def test_a_shared_argument_that_a_call_changes_is_whole_for_the_next(make_executor):
    def change(data):
        data[0] += 1
        return data[0]

    assert list(make_executor(max_workers=1).map(change, [bytearray(600_000)] * 3)) == [1, 1, 1]


def test_shared_parts_are_gone_when_the_fan_out_is(make_executor, local_redis, until):
    def parts():
        return {*local_redis.keys("*:piece:*"), *local_redis.keys("*:uses:*")}

    executor = make_executor()
    of_others = parts()
    large = os.urandom(1_000_000)
    results = executor.map(lambda data, n: (data[0], n)[1], [large] * 4, range(4))
    assert list(results) == [0, 1, 2, 3]
    unused = executor.map(lambda data: data[0], [large] * 2)  # never iterated
    del unused
    executor.submit(tasks.increment, 1).result(WAIT)
    until(lambda: not parts() - of_others)  # its calls end, then its parts go


# What makes many of a function: it answers an iterator of its results.
WAYS = {
    "map": lambda executor, fn, items: executor.map(fn, items),
    "map in chunks": lambda executor, fn, items: executor.map(fn, items, chunksize=2),
    "starmap": lambda executor, fn, items: executor.starmap(fn, [(item,) for item in items]),
    "map_unordered": lambda executor, fn, items: executor.map_unordered(fn, items),
    "submit_batch": lambda executor, fn, items: executor.submit_batch(fn, items).results(WAIT),
    "stream": lambda executor, fn, items: executor.stream(fn, items),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@every_way
def test_no_way_to_run_many_takes_a_key_or_what_is_no_function_or_comes_after_shutdown(make_executor, way):
    executor = make_executor()
    with pytest.raises(ValueError, match="key='x' names one call"):
        way(executor.with_options(key="x"), tasks.increment, [1, 2])
    with pytest.raises(TypeError, match="3 is not callable"):
        way(executor, 3, [1, 2])
    executor.shutdown()
    for items in ([1, 2], []):
        with pytest.raises(RuntimeError, match="after shutdown"):
            way(executor, tasks.increment, items)


def with_a_lock():
    lock = threading.Lock()
    return lambda _: lock


@pytest.mark.parametrize(
    ("options", "make_function", "error", "said"),
    [
        ({}, with_a_lock, TypeError, "cannot pickle '_thread.lock'"),
        ({"max_payload": 100_000}, lambda: bytes(200_000).index, ValueError, "max_payload is 100,000"),
    ],
    ids=["can't be pickled", "is too large"],
)
@every_way
def test_a_function_that_can_not_travel_is_told_where_the_results_would_be(
    make_executor, way, options, make_function, error, said
):
    results = way(make_executor(**options), make_function(), [1, 2])
    with pytest.raises(error, match=said):
        next(results)


def test_of_the_items_of_a_map_only_those_fail_that_can_not_travel(make_executor):
    class Large:
        nbytes = 1_000_000

        def __reduce__(self):
            raise TypeError("this one stays here")

    executor = make_executor(max_payload=1_000_000)
    items = [1, Large(), os.urandom(2_000_000), 2]
    results = list(executor.map(lambda item: item, items, return_exceptions=True))
    assert [type(result).__name__ for result in results] == ["int", "TypeError", "PayloadTooLargeError", "int"]


def test_a_batch_counts_a_call_that_can_not_be_pickled_as_failed(make_executor):
    executor = make_executor()
    batch = executor.submit_batch(tasks.echo, [1, threading.Lock(), 2])
    assert batch.wait(WAIT)
    assert batch.counts() == {"SUCCEEDED": 2, "FAILED": 1}
