"""Ctrl-C in a `with` block, by a real SIGINT from a real terminal: what has not begun is cancelled, and what runs is
named; a second one leaves.
"""

import asyncio
import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import uuid

import pytest

from flyexecutor import FlyMachineExecutor, LocalFly, State
from tests import tasks
from tests.terminal import Terminal

WAIT = 30.0
SCRIPT = """
import pathlib
from flyexecutor import FlyMachineExecutor
from tests import tasks

folder = pathlib.Path({folder!r})
with FlyMachineExecutor({options}max_workers=1, idle_timeout=1.0, env={{"TEST": {folder!r}}}) as ex:
    running = ex.submit(tasks.Gate(folder).enter)
    queued = [ex.submit(tasks.append_line, folder / "ran", "x") for _ in range(3)]
    ex.flush()
    print("ids", running.id, *[future.id for future in queued], "all", flush=True)
    {last}
"""


@pytest.fixture
def gate(tmp_path):
    return tasks.Gate.make(tmp_path)


@pytest.fixture
def start(local_fly, gate):
    """Starts a program whose first call is at the gate. Answers its terminal and the ids of its calls."""
    terminals = []

    def start(last, options=""):
        script = SCRIPT.format(folder=str(gate.folder), last=last, options=options)
        terminals.append(Terminal("-c", script, environ=local_fly.environ()))
        gate.wait_for_entry()
        told = terminals[-1].read_until(" all").partition("ids ")[2]
        return terminals[-1], told.split()[:4]

    yield start
    for terminal in terminals:
        terminal.__exit__()


IN_BLOCK_OR_AT_ITS_END = pytest.mark.parametrize("last", ["running.result()", "pass"])


@IN_BLOCK_OR_AT_ITS_END
def test_the_first_cancels_what_has_not_begun_names_what_runs_and_waits_for_it(start, gate, executor, last):
    terminal, (running, *queued) = start(last)
    terminal.press_ctrl_c()
    shown = terminal.read_until("flyexecutor kill " + running).partition(" all")[2]
    assert "3 calls that had not begun are cancelled, 1 call (Gate.enter) still runs and is waited for" in shown
    assert not any(call_id in shown for call_id in queued)
    assert [executor.future(call_id).cancelled() for call_id in queued] == [True] * 3
    assert not executor.future(running).done()
    gate.open()
    assert "KeyboardInterrupt" in terminal.read_until(None)
    assert terminal.process.wait(WAIT) == -signal.SIGINT
    assert executor.future(running).result(WAIT)
    assert not (gate.folder / "ran").exists()


@IN_BLOCK_OR_AT_ITS_END
def test_the_second_leaves_at_once_and_what_runs_goes_on(start, gate, executor, last):
    terminal, (running, *_) = start(last)
    terminal.press_ctrl_c()
    terminal.read_until("flyexecutor kill")
    terminal.press_ctrl_c()
    terminal.read_until(None)
    assert terminal.process.wait(WAIT) == -signal.SIGINT
    future = executor.future(running)
    assert future.state() is State.RUNNING  # still at its gate
    gate.open()
    assert future.result(WAIT)


def test_with_a_local_fly_of_its_own_the_second_ends_what_runs(start, gate):
    terminal, _ = start("running.result()", "local=True, ")
    terminal.press_ctrl_c()
    assert "flyexecutor kill" not in terminal.read_until("Ctrl-C again ends")
    terminal.press_ctrl_c()
    terminal.read_until(None)
    assert terminal.process.wait(WAIT) == -signal.SIGINT


def test_with_a_local_fly_that_has_a_name_it_says_where_a_terminal_finds_it(start):
    name = uuid.uuid4().hex
    terminal, (running, *_) = start("running.result()", f"local={name!r}, ")
    terminal.press_ctrl_c()
    shown = terminal.read_until(" ends it").split("Ctrl-C again leaves it, ")[1]
    kill = f"flyexecutor kill {running} (with the variables that flyexecutor local --name {name} prints) ends it"
    assert kill in " ".join(shown.split())
    with LocalFly(name=name) as fly:
        environ = {**os.environ, **fly.environ()}
        command = [sys.executable, "-m", "flyexecutor.cli", "kill", running]
        assert "killed" in subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    assert "KeyboardInterrupt" in terminal.read_until(None)


def test_a_call_that_somebody_else_has_submitted_is_neither_cancelled_nor_waited_for(make_executor, gate):
    other = make_executor(max_workers=1)
    running, queued = other.submit(gate.enter), other.submit(tasks.increment, 1)
    gate.wait_for_entry()
    other.flush()
    executor = make_executor()
    seen = executor.future(queued.id)
    with pytest.raises(KeyboardInterrupt), executor:
        raise KeyboardInterrupt
    assert not seen.cancelled()
    gate.open()
    assert (running.result(WAIT) != "", queued.result(WAIT)) == (True, 2)


def test_calls_that_are_just_on_their_way_to_redis_are_cancelled_too(make_executor, monkeypatch):
    executor = make_executor(max_workers=1)
    store, asked = executor._client.store, threading.Event()
    enqueue, cancel = store.enqueue, store.cancel
    monkeypatch.setattr(store, "enqueue", lambda *told, **more: (asked.wait(1.0), enqueue(*told, **more))[1])
    monkeypatch.setattr(store, "cancel", lambda ids: (cancel(ids), asked.set())[0])
    futures = [executor.submit(tasks.increment, n) for n in range(3)]
    with pytest.raises(KeyboardInterrupt), executor:
        raise KeyboardInterrupt
    assert [future.cancelled() for future in futures] == [True] * 3


@pytest.fixture
def opened_once_told(gate, monkeypatch):
    """The gate opens as soon as it was told what still runs."""

    def wait(*given):
        monkeypatch.undo()
        gate.open()
        return concurrent.futures.wait(*given)

    monkeypatch.setattr("concurrent.futures.wait", wait)


@pytest.mark.usefixtures("opened_once_told")
def test_with_nothing_to_cancel_only_what_runs_is_told(make_executor, gate, caplog):
    executor = make_executor(max_workers=1)
    future = executor.submit(gate.enter)
    gate.wait_for_entry()
    with pytest.raises(KeyboardInterrupt), executor:
        raise KeyboardInterrupt
    (told,) = caplog.messages
    how = f"Ctrl-C again leaves it, flyexecutor kill {future.id} ends it"
    assert told == f"1 call (Gate.enter) still runs and is waited for: {how}"


def test_what_ends_by_itself_meanwhile_is_not_told_as_cancelled(make_executor, gate, caplog):
    executor = make_executor(max_workers=1)
    ends = executor.submit(gate.enter)
    gate.wait_for_entry()
    waits = executor.submit(abs, -1)
    waits.add_done_callback(lambda _: (gate.open(), ends.result(WAIT)))
    with pytest.raises(KeyboardInterrupt), executor:
        raise KeyboardInterrupt
    assert waits.cancelled()
    assert caplog.messages == ["1 call that had not begun is cancelled"]


@pytest.mark.usefixtures("opened_once_told")
def test_a_task_that_is_cancelled_as_asyncio_does_on_ctrl_c_cancels_what_has_not_begun(make_executor, gate, caplog):
    async def work():
        with make_executor(max_workers=1) as ex:
            calls.append(ex.submit(gate.enter))
            gate.wait_for_entry()
            calls.append(ex.submit(abs, -1))
            asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
            await calls[0]

    calls = []
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(work())
    assert [call.cancelled() for call in calls] == [False, True]
    assert "1 call that had not begun is cancelled, 1 call (Gate.enter) still runs" in caplog.text


def test_another_exception_waits_for_all_as_in_concurrent_futures(make_executor):
    executor = make_executor()
    futures = [executor.submit(tasks.increment, n) for n in range(5)]
    with pytest.raises(ValueError, match="mine"), executor:
        raise ValueError("mine")
    assert [future.result(0) for future in futures] == [1, 2, 3, 4, 5]


def test_an_interrupt_with_nothing_pending_says_nothing(local_fly, caplog):
    with pytest.raises(KeyboardInterrupt), FlyMachineExecutor(local=local_fly):
        raise KeyboardInterrupt
    assert caplog.messages == []
