"""Calls that go well: there and back through a real Redis and real machines."""

import concurrent.futures
import itertools
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flyexecutor import ExpiredCallError, FlyMachineExecutor, State, UnknownCallError
from tests import tasks

WAIT = 30.0
THREADS = ("outbox", "watcher", "fleet")


def test_a_call_runs_in_a_machine_and_its_value_comes_back(executor):
    future = executor.submit(tasks.machine_id)
    assert future.result(WAIT)
    assert (future.result(), future.attempt, future.state()) == (future.machine_id, 1, State.SUCCEEDED)


def test_a_machine_that_stopped_for_want_of_work_is_started_again_and_not_replaced(make_executor, local_fly):
    executor = make_executor(max_workers=1, idle_timeout=0.0)
    first = executor.submit(tasks.machine_id).result(WAIT)
    assert executor.submit(tasks.machine_id).result(WAIT) == first


def test_map_answers_in_order_whatever_the_chunks(executor):
    for chunksize in (1, 7, 1000):
        assert list(executor.map(tasks.increment, range(100), chunksize=chunksize)) == list(range(1, 101))


def test_map_draws_its_input_lazily_with_a_buffersize(executor):
    drawn = []
    results = executor.map(tasks.increment, (drawn.append(n) or n for n in itertools.count()), buffersize=3)
    assert [next(results) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert len(drawn) <= 5 + 3
    results.close()


def test_map_raises_the_exception_of_an_item_in_its_place(executor):
    results = executor.map(tasks.fail_on, itertools.repeat(2), range(5))
    assert (next(results), next(results)) == (0, 1)
    with pytest.raises(ValueError, match="2 is bad"):
        next(results)


def test_map_raises_timeout_error_when_a_result_is_late(executor, tmp_path):
    gate = tasks.Gate.make(tmp_path)
    results = executor.map(gate.__class__.enter, [gate], timeout=0.2)
    with pytest.raises(TimeoutError):
        next(results)
    gate.wait_for_entry()
    gate.open()


@pytest.mark.parametrize(
    ("bad", "error", "said"),
    [
        ({"chunksize": 0}, ValueError, "chunksize must be >= 1"),
        ({"chunksize": "1"}, TypeError, "chunksize must be an integer"),
        ({"buffersize": 0}, ValueError, "buffersize must be None or > 0"),
        ({"buffersize": 1.5}, TypeError, "buffersize must be an integer or None"),
    ],
)
def test_map_refuses_sizes_that_make_no_sense(executor, bad, error, said):
    with pytest.raises(error, match=said):
        executor.map(tasks.increment, [1], **bad)


def test_a_call_is_a_snapshot_of_its_arguments(executor):
    numbers = [1, 2]
    future = executor.submit(tasks.echo, numbers)
    numbers.append(3)
    assert future.result(WAIT) == [1, 2]


def test_closures_lambdas_and_local_classes_travel(executor):
    factor = 3

    class Scaled:
        def __init__(self, value):
            self.value = value * factor

    assert executor.submit(lambda n: Scaled(n).value, 4).result(WAIT) == 12
    assert isinstance(executor.submit(Scaled, 4).result(WAIT), Scaled)


@pytest.mark.parametrize("size", [0, 100_000, 300_000, 12_000_000])
def test_payloads_of_any_size_come_back_unchanged(executor, size):
    payload = bytes(size)
    assert executor.submit(tasks.echo, payload).result(WAIT) == payload


def test_large_buffers_arrive_writable(executor):
    def change(array):
        array[0] = 7
        return array

    assert executor.submit(change, bytearray(1_000_000)).result(WAIT)[0] == 7


def test_wait_and_as_completed_take_our_futures(executor):
    futures = [executor.submit(tasks.increment, n) for n in range(10)]
    done, pending = concurrent.futures.wait(futures, timeout=WAIT)
    assert (len(done), len(pending)) == (10, 0)
    assert {future.result() for future in concurrent.futures.as_completed(futures)} == set(range(1, 11))


def test_callbacks_run_in_the_order_in_which_they_were_added(executor):
    heard, last = [], threading.Event()
    future = executor.submit(tasks.increment, 1)
    future.add_done_callback(lambda f: heard.append(("first", f.result())))
    future.add_done_callback(lambda f: (heard.append(("second", f.result())), last.set()))
    assert last.wait(WAIT)
    assert heard == [("first", 2), ("second", 2)]


def test_a_queued_call_can_be_cancelled_and_a_running_one_can_not(make_executor, tmp_path):
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    running = executor.submit(gate.enter)
    gate.wait_for_entry()
    queued = executor.submit(tasks.append_line, tmp_path / "ran", "queued")
    executor.flush(WAIT)
    assert (running.state(), running.running(), queued.state()) == (State.RUNNING, True, State.QUEUED)
    assert (queued.cancel(), queued.cancelled(), queued.state()) == (True, True, State.CANCELLED)
    assert not running.cancel()
    assert concurrent.futures.wait([queued], timeout=WAIT).done == {queued}
    gate.open()
    assert running.result(WAIT)
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2
    assert not (tmp_path / "ran").exists()


def test_two_calls_run_at_a_time_in_a_machine_with_concurrency_2(make_executor, tmp_path):
    executor = make_executor(max_workers=1, concurrency=2)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    gates = [tasks.Gate.make(folder) for folder in folders]
    futures = [executor.submit(gate.enter) for gate in gates]
    entered = {gate.wait_for_entry() for gate in gates}  # both are inside before either is let go
    for gate in gates:
        gate.open()
    assert len(entered) == 1
    assert {future.result(WAIT) for future in futures} == entered


def test_short_calls_that_were_given_ahead_do_not_wait_behind_a_long_one(make_executor, tmp_path):
    executor = make_executor(max_workers=2)
    gate = tasks.Gate.make(tmp_path)
    list(executor.map(tasks.increment, range(500)))  # both workers have learnt that calls are short
    futures = [executor.submit(tasks.increment, n) for n in range(50)]
    long = executor.submit(gate.enter)
    futures += [executor.submit(tasks.increment, n) for n in range(50, 100)]
    assert [future.result(WAIT) for future in futures] == list(range(1, 101))  # while the long one is at the gate
    assert not long.done()
    gate.wait_for_entry()
    gate.open()
    assert long.result(WAIT)


def test_an_executor_can_attach_to_a_call_of_another(make_executor):
    asked, other = make_executor(), make_executor()
    future = asked.submit(tasks.increment, 1)
    asked.flush(WAIT)
    attached = other.future(future.id)
    assert (attached.result(WAIT), attached.id) == (2, future.id)
    assert other.future(future.id).result(0) == 2  # ended: no waiting


def test_pending_expired_and_unknown_calls_are_told_apart(make_executor, raw_redis):
    executor = make_executor()
    future = executor.submit(tasks.increment, 1)
    future.result(WAIT)
    raw_redis.delete(*raw_redis.keys(f"*:call:{future.id}"))
    call_id = future.id
    del future
    with pytest.raises(ExpiredCallError, match=call_id):
        executor.future(call_id)
    with pytest.raises(UnknownCallError, match="no call has the id"):
        executor.future("f" * len(call_id))


def test_the_environment_given_to_the_executor_is_that_of_its_machines(make_executor):
    executor = make_executor(env={"COLOUR": "green"})
    assert executor.submit(tasks.environment, "COLOUR").result(WAIT) == "green"


def test_submit_after_shutdown_is_refused_and_shutdown_may_be_repeated(executor):
    executor.submit(tasks.increment, 1)
    executor.shutdown()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(tasks.increment, 1)


def test_shutdown_without_waiting_still_delivers(executor):
    future = executor.submit(tasks.increment, 1)
    executor.shutdown(wait=False)
    assert future.result(WAIT) == 2


def test_shutdown_can_cancel_what_no_worker_has_claimed(make_executor, tmp_path):
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    running = executor.submit(gate.enter)
    gate.wait_for_entry()
    queued = [executor.submit(tasks.increment, n) for n in range(3)]
    executor.flush(WAIT)
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in queued)
    gate.open()
    assert running.result(WAIT)


def test_submit_refuses_what_is_not_callable(executor):
    with pytest.raises(TypeError, match="42 is not callable"):
        executor.submit(42)


def test_an_executor_that_nobody_holds_any_longer_ends_its_threads(local_fly):
    before = set(threading.enumerate())
    executor = FlyMachineExecutor(local=local_fly, max_workers=1, idle_timeout=1.0)
    future = executor.submit(tasks.increment, 1)
    threads = [t for t in threading.enumerate() if t not in before and t.name.split()[-1] in THREADS]
    assert len(threads) == len(THREADS)
    del executor
    assert future.result(WAIT) == 2
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()


SCRIPT = """
from flyexecutor import FlyMachineExecutor

def f(x):
    return x * x

if __name__ == "__main__":
    with FlyMachineExecutor(local=True) as ex:
        assert list(ex.map(f, range(1000), chunksize=10)) == [f(x) for x in range(1000)]
    print("in order")
"""


def test_the_example_of_the_issue_runs_with_a_function_of_main(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (0, "in order\n"), ran.stderr
