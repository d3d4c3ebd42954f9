"""What a future tells of its call while it runs, and how the call is stopped by hand."""

import secrets
import sys
import threading

import pytest
from tqdm import tqdm

import flyexecutor
from flyexecutor import CallKilledError, Kill, Progress, State, progress_bar
from flyexecutor.store.calls import Store
from tests import tasks

WAIT = 30.0


@pytest.fixture
def gate(tmp_path):
    return tasks.Gate.make(tmp_path)


def test_a_running_call_is_killed_and_its_finally_blocks_run(make_executor, gate):
    executor = make_executor(max_workers=1)
    future = executor.submit(tasks.hang, gate)
    machine = gate.wait_for_entry()
    assert future.kill() is Kill.KILLED
    assert (future.state(), future.done(), future.cancelled()) == (State.KILLED, True, False)
    error = future.exception()
    assert isinstance(error, CallKilledError)
    assert "SIGTERM" in str(error)
    assert "somebody asked for that (future.kill()" in str(error)
    assert (gate.folder / "finally").exists()
    assert executor.submit(tasks.machine_id).result(WAIT) == machine  # the worker lives


def test_a_call_that_ignores_the_signal_is_killed_by_force(make_executor, gate):
    future = make_executor(max_workers=1).submit(tasks.hang_stubbornly, gate)
    gate.wait_for_entry()
    assert future.kill() is Kill.KILLED
    assert "SIGKILL" in str(future.exception())


def test_a_call_that_has_not_begun_is_cancelled_by_kill(make_executor, gate):
    executor = make_executor(max_workers=1)
    running = executor.submit(gate.enter)
    gate.wait_for_entry()
    queued = executor.submit(tasks.increment, 1)
    executor.flush(WAIT)
    assert queued.kill() is Kill.KILLED
    assert queued.cancelled()
    gate.open()
    assert running.result(WAIT)


def test_a_call_that_has_ended_can_not_be_killed(executor):
    future = executor.submit(tasks.increment, 1)
    assert future.result(WAIT) == 2
    assert future.kill() is Kill.DONE


def test_nobody_knows_what_came_of_a_kill_that_takes_too_long(make_executor, gate):
    future = make_executor(max_workers=1).submit(tasks.hang_stubbornly, gate)
    gate.wait_for_entry()
    assert future.kill(timeout=0.1) is Kill.UNKNOWN
    assert isinstance(future.exception(WAIT), CallKilledError)


def test_a_killed_call_of_a_machine_that_dies_does_not_run_again(make_executor, gate, machine_api):
    executor = make_executor(max_workers=1)
    future = executor.submit(tasks.hang_stubbornly, gate)
    gate.wait_for_entry()
    machine = future.machine_id
    assert future.order_kill()
    machine_api(machine, "signal", signal="SIGKILL")
    error = future.exception(WAIT)
    assert isinstance(error, CallKilledError)
    assert "was killed before it ran again: somebody asked for that" in str(error)
    assert (future.state(), future.attempt) == (State.KILLED, 1)


def test_another_process_can_kill_a_call_by_its_id(make_executor, gate):
    asked, other = make_executor(), make_executor()
    future = asked.submit(tasks.hang, gate)
    gate.wait_for_entry()
    assert other.future(future.id).kill() is Kill.KILLED
    assert isinstance(future.exception(WAIT), CallKilledError)


def test_what_a_call_prints_is_its_log_and_no_other_calls(executor):
    futures = [executor.submit(tasks.print_lines, f"first of {n}", f"second of {n}") for n in range(20)]
    for n, future in enumerate(futures):
        future.result(WAIT)
        assert future.logs() == f"first of {n}\nsecond of {n}\n"


def test_a_log_is_the_end_of_what_was_printed(executor):
    future = executor.submit(tasks.print_lines, *[f"line {n}" for n in range(10_000)])
    future.result(WAIT)
    assert future.logs().endswith("line 9998\nline 9999\n")
    assert len(future.logs()) == 32 * 1024


def test_the_log_of_a_running_call_can_be_read(make_executor, gate):
    future = make_executor(max_workers=1).submit(tasks.print_and_enter, gate, "on my way")
    gate.wait_for_entry()
    while future.logs() != "on my way\n":
        assert not future.done()
    gate.open()
    future.result(WAIT)


def test_the_log_of_a_failed_item_of_map_comes_with_its_failure(executor):
    def fail():
        print("before the end")
        tasks.exit_at_once(3)

    (error,) = executor.map(lambda _: fail(), [1], return_exceptions=True)
    assert any("before the end" in note for note in error.__notes__)


def test_progress_is_seen_while_the_call_runs_and_by_callbacks(make_executor, gate):
    future = make_executor(max_workers=1).submit(tasks.report_progress, gate)
    heard, first = [], threading.Event()
    future.add_progress_callback(lambda _: sys.exit("for the others, too"))
    future.add_progress_callback(lambda progress: (heard.append(progress), first.set()))
    future.add_progress_callback(lambda _: 1 / 0)  # is logged, and hurts nobody
    gate.wait_for_entry()
    assert first.wait(WAIT)
    assert future.progress() == Progress(1, 4, "a quarter")
    gate.open()
    future.result(WAIT)
    assert (heard[0], heard[-1]) == (Progress(1, 4, "a quarter"), Progress(4, 4, "nearly"))


def test_whoever_attaches_sees_the_progress_so_far(make_executor, gate):
    asked, other = make_executor(max_workers=1), make_executor()
    future = asked.submit(tasks.report_progress, gate)
    gate.wait_for_entry()
    while future.progress() is None:
        pass
    assert other.future(future.id).progress() == Progress(1, 4, "a quarter")
    gate.open()
    future.result(WAIT)


def test_the_last_progress_is_kept_after_the_end_for_whoever_attaches_later(executor, make_executor):
    future, silent = executor.submit(tasks.note_progress, "done"), executor.submit(tasks.increment, 1)
    assert (future.result(WAIT), silent.result(WAIT)) == (None, 2)
    other = make_executor()
    assert future.progress() == other.future(future.id).progress() == Progress(1, None, "done")
    assert silent.progress() is other.future(silent.id).progress() is None


def test_a_second_submit_with_the_key_of_a_call_that_has_ended_has_its_progress(executor, make_executor):
    key = secrets.token_hex()
    executor.with_options(key=key).submit(tasks.note_progress, "done").result(WAIT)
    again = make_executor().with_options(key=key).submit(tasks.note_progress, "not run")
    again.result(WAIT)
    assert (again.progress(), again.attempt) == (Progress(1, None, "done"), 1)


def test_the_note_of_a_progress_is_cut_where_it_would_fill_redis(executor):
    future = executor.submit(tasks.note_progress, "x" * 1_000_000)
    future.result(WAIT)
    assert future.progress() == Progress(1, None, "x" * 1000)
    with pytest.raises(ValueError, match=r"progress is .* bytes: done and total must be numbers"):
        executor.submit(flyexecutor.progress, list(range(10_000))).result(WAIT)


def test_a_progress_bar_moves_with_its_calls_and_reaches_the_end(make_executor, gate, monkeypatch):
    seen, quarter = [], threading.Event()

    class Bar(tqdm):
        def refresh(self, *args, **kwargs):
            seen.append((self.n, self.total, self.postfix))
            if self.n % 1 == 0.25:
                quarter.set()

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    executor = make_executor(max_workers=2)
    futures = [executor.submit(tasks.report_progress, gate), executor.submit(tasks.increment, 1)]
    bar = progress_bar(futures, disable=False)
    ended = [next(bar)]
    gate.wait_for_entry()
    assert quarter.wait(WAIT)
    gate.open()
    ended += bar
    assert set(ended) == set(futures)
    assert f"{seen[-1][0]}/{seen[-1][1]}" == "2/2"  # as it is shown


def test_a_future_tells_where_its_call_stands_and_its_times(make_executor, gate):
    executor = make_executor(max_workers=1, result_ttl=100.0)
    future = executor.submit(gate.enter)
    machine = gate.wait_for_entry()
    info = future.info()
    assert (info.state, info.attempt, info.machine_id) == (State.RUNNING, 1, machine)
    assert (info.queue_seconds >= 0, info.run_seconds, info.expires_at) == (True, None, None)
    gate.open()
    future.result(WAIT)
    info = future.info()
    assert (info.state, info.region) == (State.SUCCEEDED, "iad")
    assert 0 <= info.run_seconds < WAIT
    assert 0 < info.expires_at - info.times.finished <= 101


def test_an_item_of_map_tells_its_times_without_a_record(make_executor):
    executor = make_executor()
    future = executor._caller.submit(tasks.increment, (1,), {}, keep=False)
    future.result(WAIT)
    assert future.info().run_seconds >= 0
    assert future.info().expires_at is None


def test_a_call_has_ended_although_the_answer_that_it_was_stored_is_late(make_executor, monkeypatch):
    executor = make_executor(max_workers=1, idle_timeout=WAIT)
    executor.submit(tasks.increment, 1).result(WAIT)  # its worker waits for the next
    late, enqueue = threading.Event(), Store.enqueue

    def enqueue_slowly(*args, **kwargs):
        stored = enqueue(*args, **kwargs)
        late.wait(WAIT)
        return stored

    monkeypatch.setattr(Store, "enqueue", enqueue_slowly)
    try:
        future = executor.submit(tasks.increment, 1)
        assert future.result(WAIT) == 2
        assert future.info().state is State.SUCCEEDED
    finally:
        late.set()
