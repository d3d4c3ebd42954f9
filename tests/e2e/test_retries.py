"""Calls that raise are tried again, as `Retry` says; calls that wait too long are not run; keys run a call once."""

import pytest

from flyexecutor import NotStartedError, Retry, SettingsError, State
from tests import tasks
from tests.faults.test_a_payload_is_not_ours import hold_queue, key_of

WAIT = 30.0
SOON = Retry(attempts=3, wait=0.05)


def test_a_call_that_raises_is_tried_again_until_it_returns(make_executor, tmp_path):
    future = make_executor(retries=SOON).submit(tasks.raise_at_first, tmp_path / "ran", 2, ValueError("not yet"))
    assert (future.result(WAIT), future.attempt) == (3, 3)


def test_the_last_exception_is_the_outcome_when_the_attempts_are_spent(make_executor, tmp_path):
    future = make_executor(retries=SOON).submit(tasks.raise_at_first, tmp_path / "ran", 9, ValueError("never"))
    with pytest.raises(ValueError, match="never"):
        future.result(WAIT)
    assert future.attempt == 3


def test_a_thousandth_attempt_does_not_end_its_machine(make_executor, tmp_path, local_redis):
    """The pause doubles each time, and 2**1024 is no number of seconds."""
    executor, gate = hold_queue(make_executor, tmp_path)
    often = executor.with_options(retries=Retry(attempts=1200, wait=0.0, lost=0))
    future = often.submit(tasks.raise_at_first, tmp_path / "ran", 2, ValueError("not yet"))
    local_redis.hset(key_of(executor, future, local_redis), "raised", 1100)  # not begun that often: that takes a while
    gate.open()
    assert (future.result(WAIT), future.attempt) == (3, 3)


def test_an_exception_that_is_not_named_is_final(make_executor, tmp_path):
    retry = Retry(attempts=3, wait=0.05, on=OSError, not_on=FileNotFoundError)
    executor = make_executor(retries=retry)
    for n, error in enumerate((ValueError("no"), FileNotFoundError("no"))):
        future = executor.submit(tasks.raise_at_first, tmp_path / str(n), 1, error)
        assert isinstance(future.exception(WAIT), type(error))
        assert future.attempt == 1
    assert executor.submit(tasks.raise_at_first, tmp_path / "2", 1, PermissionError("no")).result(WAIT) == 2


def test_a_number_of_retries_holds_for_exceptions_too(make_executor, tmp_path):
    executor = make_executor(retries=1)
    future = executor.submit(tasks.raise_at_first, tmp_path / "ran", 1, ValueError("once"))
    assert future.result(WAIT) == 2


def test_by_default_an_exception_is_final(executor, tmp_path):
    future = executor.submit(tasks.raise_at_first, tmp_path / "ran", 1, ValueError("once"))
    assert isinstance(future.exception(WAIT), ValueError)
    assert future.attempt == 1


def test_a_call_that_waits_for_its_retry_can_be_cancelled(make_executor, tmp_path):
    executor = make_executor(retries=Retry(attempts=2, wait=1000.0, longest_wait=1000.0))
    future = executor.submit(tasks.raise_at_first, tmp_path / "ran", 9, ValueError("no"))
    info = future.info()
    while (info.state, info.attempt) != (State.QUEUED, 1):
        info = future.info()
    assert future.cancel()
    assert future.state() is State.CANCELLED


@pytest.mark.usefixtures("quick_fleet")
def test_a_retry_is_carried_out_by_a_client_when_its_worker_has_gone(make_executor, tmp_path, local_redis):
    executor = make_executor(retries=Retry(attempts=2, wait=600.0, longest_wait=600.0), idle_timeout=0.1)
    future = executor.submit(tasks.raise_at_first, tmp_path / "ran", 1, ValueError("once"))
    redis = local_redis
    while future.attempt != 1 or any(redis.hlen(key) for key in redis.keys(f"*:workers:{executor._lane.name}")):
        pass  # until it has raised, and its worker has left
    redis.zadd(f"fly:{{{executor._settings.app}}}:due:{executor._lane.name}", {f"r {future.id}": 1})
    assert future.result(WAIT) == 2


def test_one_item_of_a_chunk_is_tried_again_without_the_others(make_executor, tmp_path):
    executor = make_executor(retries=SOON)

    def work(number):
        tasks.append_line(tmp_path / f"ran{number}", "x")
        if number == 3:
            return tasks.raise_at_first(tmp_path / "bad", 1, ValueError("once"))
        return number

    assert list(executor.map(work, range(6), chunksize=6)) == [0, 1, 2, 2, 4, 5]
    assert len((tmp_path / "ran2").read_text().splitlines()) == 1


@pytest.mark.usefixtures("quick_fleet")
def test_a_call_that_waits_too_long_is_never_run(make_executor, tmp_path):
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    running = executor.submit(gate.enter)
    gate.wait_for_entry()
    late = executor.with_options(expires=0.2).submit(tasks.append_line, tmp_path / "ran", "late")
    error = late.exception(WAIT)  # while the only machine is busy
    assert isinstance(error, NotStartedError)
    assert isinstance(error, TimeoutError)
    assert "0.2 s" in str(error)
    gate.open()
    assert running.result(WAIT)
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2
    assert not (tmp_path / "ran").exists()


def test_a_call_that_begins_in_time_does_not_expire(make_executor):
    executor = make_executor(expires=60.0)
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2


def test_a_second_submit_with_the_same_key_attaches_to_the_first(make_executor, tmp_path):
    one, other = make_executor().with_options(key="invoice-42"), make_executor().with_options(key="invoice-42")
    first = one.submit(tasks.append_line, tmp_path / "ran", "x")
    assert one.submit(tasks.append_line, tmp_path / "ran", "x") is first
    second = other.submit(tasks.append_line, tmp_path / "ran", "x")
    assert second.id == first.id
    assert (first.result(WAIT), second.result(WAIT)) == (None, None)
    assert other.submit(tasks.append_line, tmp_path / "ran", "x").result(WAIT) is None  # after its end, too
    assert (tmp_path / "ran").read_text() == "x\n"
    assert one.with_options(key="invoice-43").submit(tasks.increment, 1).id != first.id


def test_a_key_is_for_one_call(make_executor):
    executor = make_executor().with_options(key="x")
    with pytest.raises(ValueError, match="key='x' names one call"):
        executor.map(tasks.increment, [1])


def test_the_task_knows_its_call_and_attempt(make_executor):
    future = make_executor().submit(tasks.identify)
    assert future.result(WAIT) == (future.id, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retries": -1}, "retries is -1"),
        ({"retries": "3"}, "retries is '3'"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": "1"}, "timeout is '1'"),
        ({"expires": -1}, "expires is -1"),
        ({"key": ""}, "key is ''"),
    ],
)
def test_options_that_make_no_sense_are_named_with_their_value(executor, options, said):
    with pytest.raises(SettingsError, match=said):
        executor.with_options(**options)


@pytest.mark.parametrize("bad", [{"attempts": 0}, {"lost": -1}, {"wait": -1}, {"wait": "1"}, {"longest_wait": None}])
def test_a_retry_that_makes_no_sense_is_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is "):
        Retry(**bad)


@pytest.mark.parametrize("bad", [{"on": ValueError("x")}, {"on": [ValueError]}, {"not_on": "ValueError"}, {"on": int}])
def test_a_retry_on_what_is_no_exception_type_is_refused(bad):
    with pytest.raises(TypeError, match="must be an exception type"):
        Retry(**bad)
