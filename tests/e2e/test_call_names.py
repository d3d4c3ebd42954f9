"""Calls have a name wherever their ids are shown: that of the function, or the one that `with_options` gives."""

import pytest

from flyexecutor import CallForgottenError, CallKilledError, NotStartedError, SettingsError, current_call
from tests import tasks

WAIT = 30.0


class Nameless:
    """Its name can't be had."""

    def __call__(self, number):
        return number + 1

    def __getattr__(self, name):
        raise ValueError("no name") if name == "__qualname__" else AttributeError(name)


def name_of_this_call(*_):
    return current_call().name


async def name_of_this_coroutine():
    return current_call().name


@pytest.fixture
def gate(tmp_path):
    return tasks.Gate.make(tmp_path)


def test_a_call_has_the_name_of_its_function_on_both_sides(executor):
    future = executor.submit(name_of_this_call)
    assert future.name == "name_of_this_call"
    assert f"call={future.id} (name_of_this_call)>" in repr(future)
    assert future.result(WAIT) == "name_of_this_call"
    assert future.info().name == "name_of_this_call"
    assert executor.submit(name_of_this_coroutine).result(WAIT) == "name_of_this_coroutine"


def test_a_name_that_is_given_goes_before_that_of_the_function(executor):
    named = executor.with_options(name="the first\nof March")
    assert named.submit(name_of_this_call).result(WAIT) == r"the first\nof March"
    assert list(named.map(name_of_this_call, range(2))) == [r"the first\nof March"] * 2
    assert named.with_options(timeout=60).submit(name_of_this_call).name == r"the first\nof March"
    assert executor.submit(name_of_this_call).name == "name_of_this_call"
    assert executor.with_options(name="x" * 999).submit(name_of_this_call).result(WAIT) == "x" * 99 + "…"


@pytest.mark.parametrize("name", ["", 7, b"bytes"])
def test_a_name_that_is_no_text_is_refused(executor, name):
    with pytest.raises(SettingsError, match=f"name is {name!r}"):
        executor.with_options(name=name)


@pytest.mark.parametrize("chunksize", [1, 2])
def test_items_of_a_fan_out_have_the_name_of_its_function(executor, chunksize):
    assert set(executor.map(name_of_this_call, range(4), chunksize=chunksize)) == {"name_of_this_call"}


def test_calls_of_a_batch_and_of_a_stream_have_the_name_of_their_function(executor):
    batch = executor.submit_batch(name_of_this_call, range(2))
    assert list(batch.results(WAIT)) == ["name_of_this_call"] * 2
    assert repr(batch) == f"<Batch {batch.id} (name_of_this_call) of 2 calls>"
    assert repr(executor.submit_batch(name_of_this_call)).endswith("of 0 calls>")
    stream = executor.stream(tasks.count_to, 2)
    assert list(stream) == [0, 1]
    assert stream.future.name == "count_to"


def test_what_has_no_name_is_submitted_all_the_same(executor):
    future = executor.submit(Nameless(), 1)
    assert (future.result(WAIT), future.name) == (2, "Nameless")


def test_who_attaches_to_a_call_knows_its_name(make_executor, gate):
    future = make_executor().with_options(name="held").submit(gate.enter)
    gate.wait_for_entry()
    attached = make_executor().future(future.id)
    assert (attached.name, attached.info().name) == ("held", "held")
    assert f"{future.id} (held)" in repr(attached)
    gate.open()
    assert attached.result(WAIT)
    assert make_executor().future(future.id).name == "held"


def test_the_note_of_an_exception_names_the_call(executor, make_executor):
    future = executor.submit(tasks.raise_value_error, "bad")
    notes = "".join(future.exception(WAIT).__notes__)
    assert f"call {future.id} (raise_value_error), attempt 1" in notes
    attached = make_executor().future(future.id)
    assert f"call {future.id} (raise_value_error), attempt 1" in "".join(attached.exception(WAIT).__notes__)


def test_a_call_that_never_began_and_one_that_was_killed_are_named(make_executor, gate):
    executor = make_executor(max_workers=1)
    running = executor.submit(tasks.hang, gate)
    gate.wait_for_entry()
    late = executor.with_options(expires=0.01).submit(tasks.increment, 1)
    error = late.exception(WAIT)
    assert isinstance(error, NotStartedError)
    assert f"{late.id} (increment)" in str(error)
    assert running.kill(WAIT) == "killed"
    error = running.exception()
    assert isinstance(error, CallKilledError)
    assert f"{running.id} (hang)" in "".join(error.__notes__)


def test_a_name_that_somebody_else_wrote_into_redis_does_no_harm(make_executor, gate, local_redis):
    future = make_executor().submit(gate.enter)
    gate.wait_for_entry()
    local_redis.hset(f"fly:{{local}}:call:{future.id}", "name", b"\x1b[2J\xff\n" + b"x" * 100_000)
    attached = make_executor().future(future.id)
    gate.open()
    assert attached.result(WAIT)
    for name in (attached.name, attached.info().name):
        assert name.isprintable()
        assert len(name) == 100
        assert name.startswith(r"\x1b[2J")


def test_a_call_that_redis_has_forgotten_is_named(make_executor, gate, local_redis):
    future = make_executor().submit(gate.enter)
    gate.wait_for_entry()
    local_redis.delete(f"fly:{{local}}:call:{future.id}")
    with pytest.raises(CallForgottenError, match=rf"the call {future.id} \(Gate.enter\)"):
        future.info()
    gate.open()
