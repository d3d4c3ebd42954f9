"""What code that takes a concurrent.futures executor relies on, where it is more than calls that go well."""

import concurrent.futures
import gc
import logging
import signal
import subprocess
import sys
import threading
from concurrent.futures import BrokenExecutor, CancelledError
from pathlib import Path

import pytest

from flyexecutor import FlyMachineExecutor, InitializerError, SettingsError
from tests import tasks

WAIT = 30.0


@pytest.fixture
def gate(tmp_path):
    return tasks.Gate.make(tmp_path)


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("cancel_futures", [True, False])
def test_shutdown_does_what_its_arguments_say(make_executor, gate, wait, cancel_futures):
    executor = make_executor(max_workers=1)
    running = executor.submit(gate.enter)
    gate.wait_for_entry()
    queued = executor.submit(tasks.increment, 1)
    executor.flush(WAIT)
    done = threading.Thread(target=executor.shutdown, kwargs={"wait": wait, "cancel_futures": cancel_futures})
    done.start()
    if not wait:
        done.join(WAIT)
        assert not running.done()
    if cancel_futures:
        assert concurrent.futures.wait([queued], WAIT).done
        assert queued.cancelled()
    assert done.is_alive() is wait
    gate.open()
    done.join(WAIT)
    assert not done.is_alive()
    assert running.result(WAIT)
    assert queued.cancelled() or queued.result(WAIT) == 2
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(tasks.increment, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(tasks.increment, [1])


def test_shutdown_may_come_twice_and_from_several_threads(make_executor):
    executor = make_executor()
    futures = [executor.submit(tasks.increment, n) for n in range(50)]
    threads = [
        threading.Thread(target=executor.shutdown, kwargs={"wait": n % 2 == 0, "cancel_futures": False})
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()
    assert [future.result(WAIT) for future in futures] == list(range(1, 51))


def test_many_threads_may_submit_and_map_at_a_time(executor):
    results = {}

    def work(n):
        results[n] = [executor.submit(tasks.increment, n).result(WAIT), *executor.map(tasks.increment, range(n, n + 5))]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert results == {n: [n + 1, *range(n + 1, n + 6)] for n in range(16)}


def test_an_error_in_a_callback_is_logged_and_the_next_is_called(executor, caplog):
    future = executor.submit(tasks.increment, 1)
    called = threading.Event()
    future.add_done_callback(lambda _: 1 / 0)
    future.add_done_callback(lambda _: called.set())
    with caplog.at_level(logging.ERROR, logger="concurrent.futures"):
        assert called.wait(WAIT)
    assert "exception calling callback" in caplog.text


def test_a_cancelled_future_raises_and_tells_its_waiters(make_executor, gate):
    executor = make_executor(max_workers=1)
    running = executor.submit(gate.enter)
    gate.wait_for_entry()
    queued = executor.submit(tasks.increment, 1)
    heard = threading.Event()
    queued.add_done_callback(lambda _: heard.set())
    assert queued.cancel()
    assert heard.wait(WAIT)
    with pytest.raises(CancelledError):
        queued.result()
    assert concurrent.futures.wait([queued, running], timeout=0.1).done == {queued}
    gate.open()
    assert running.result(WAIT)


def test_ctrl_c_while_waiting_for_a_result_is_heard(local_fly, tmp_path):
    tasks.Gate.make(tmp_path)
    script = (
        "import signal, sys, pathlib\nfrom flyexecutor import FlyMachineExecutor\nfrom tests import tasks\n"
        # A shell that runs the tests in the background has them, and their children, ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "gate = tasks.Gate(pathlib.Path(sys.argv[1]))\n"
        "ex = FlyMachineExecutor(max_workers=1, idle_timeout=1.0)\nfuture = ex.submit(gate.enter)\n"
        "try:\n    future.result()\nexcept KeyboardInterrupt:\n    print('heard', future.done())\n"
        "    ex.shutdown(wait=False, cancel_futures=True)\n"
    )
    environ = {"PATH": "/usr/bin", "PYTHONPATH": str(Path.cwd()), **local_fly.environ()}
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        tasks.Gate(tmp_path).wait_for_entry()
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "heard False\n"
        assert process.wait(WAIT) == 0
    tasks.Gate(tmp_path).open()


def test_a_finaliser_sends_nothing_itself(local_fly, monkeypatch):
    executor = FlyMachineExecutor(local=local_fly, max_workers=1, idle_timeout=1.0)
    executor.submit(tasks.increment, 1).result(WAIT)
    closers, closed, ours = [], threading.Event(), id(executor._client)

    def close(client):
        inner(client)
        if id(client) == ours:  # else an executor of an earlier test, which is collected now as well
            closers.append(threading.current_thread().name)
            closed.set()

    inner = type(executor._client).close
    monkeypatch.setattr(type(executor._client), "close", close)
    del executor
    gc.collect()
    assert closed.wait(WAIT)
    assert closers == ["flyexecutor watcher"]


def test_a_coroutine_function_is_awaited_on_the_machine(executor):
    assert executor.submit(tasks.add_soon, 1, 2).result(WAIT) == 3
    assert list(executor.map(tasks.add_soon, range(6), range(6), chunksize=2)) == [0, 2, 4, 6, 8, 10]


def test_each_process_runs_the_initializer_once_and_before_its_first_call(make_executor):
    executor = make_executor(max_workers=1, initializer=tasks.initialize, initargs=("ready",))
    assert executor.submit(tasks.what_was_initialized).result(WAIT) == ["ready"]
    assert executor.submit(tasks.what_was_initialized).result(WAIT) == ["ready"]


def test_an_initializer_that_raises_fails_the_call_with_its_reason(make_executor):
    executor = make_executor(initializer=tasks.fail_to_initialize)
    error = executor.submit(tasks.increment, 1).exception(WAIT)
    assert isinstance(error, InitializerError)
    assert isinstance(error, BrokenExecutor)
    assert "OSError: no such disk" in str(error)
    assert "in fail_to_initialize" in str(error.__cause__)


def test_an_initializer_must_be_callable():
    with pytest.raises(TypeError, match="initializer must be a callable"):
        FlyMachineExecutor(initializer=42)


@pytest.mark.parametrize("depth", [1, 4])
def test_a_call_may_wait_for_calls_that_it_submits_though_there_is_one_worker(make_executor, depth):
    executor = make_executor(max_workers=1, concurrency=1)
    assert executor.submit(tasks.nest, depth).result(WAIT) == depth
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2


def test_nested_calls_fan_out_without_dead_lock(make_executor):
    executor = make_executor(max_workers=2)

    def total(numbers):
        return sum(executor.map(tasks.increment, numbers))  # the executor travels with the function

    assert list(executor.map(total, [range(5), range(3), range(7), range(2)])) == [15, 6, 28, 3]


def test_an_executor_can_not_be_unpickled_elsewhere(executor):
    import pickle  # noqa: PLC0415

    with pytest.raises(SettingsError, match="in a call on one of its machines only"):
        pickle.loads(pickle.dumps(executor))


def test_an_executor_with_other_options_shares_everything_else(make_executor):
    executor = make_executor()
    other = executor.with_options(timeout=20.0, retries=0)
    assert other.submit(tasks.increment, 1).result(WAIT) == 2
    assert (other._client, other._max_workers) == (executor._client, executor._max_workers)
    other.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(tasks.increment, 1)


def test_its_size_is_read_as_other_executors_have_it(make_executor):
    assert make_executor(max_workers=7)._max_workers == 7
