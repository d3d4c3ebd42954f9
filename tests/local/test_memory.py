"""Whoever watches the memory of a machine does nothing while that is suspended: hundreds may be."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from flyexecutor.local import memory
from flyexecutor.local.memory import MemoryLimit

WAIT = 30.0
HUNGRY = "import sys; hoard = bytearray(64 << 20); print(flush=True); sys.stdin.read()"


@pytest.fixture
def looks(monkeypatch):
    """Each look is one more release of it."""
    looked, resident_bytes = threading.Semaphore(0), memory._resident_bytes

    def look(session):
        looked.release()
        return resident_bytes(session)

    monkeypatch.setattr(memory, "_resident_bytes", look)
    monkeypatch.setattr(memory, "LOOK_EVERY", 0.005)
    return looked


@pytest.fixture
def start():
    """Processes that lead a session."""
    started = []

    def begin(code):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **pipes))
        started[-1].stdout.readline()
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("memory of")]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="the sizes of others' processes are not shown here")
def test_who_takes_too_much_is_killed(start):
    process, told = start(HUNGRY), []
    limit = MemoryLimit(process.pid, 32 << 20, told.append)
    assert (process.wait(WAIT), told) == (-signal.SIGKILL, [process.pid])
    limit.end()


def test_nobody_looks_while_it_is_suspended_and_everybody_does_again_afterwards(looks):
    limit = MemoryLimit(os.getpid(), 1 << 60, lambda _: None)
    assert looks.acquire(timeout=WAIT)
    limit.pause()
    time.sleep(0.1)  # the look that was under way has ended
    while looks.acquire(blocking=False):
        pass
    assert not looks.acquire(timeout=0.3)
    limit.resume()
    assert looks.acquire(timeout=WAIT)
    limit.end()


@pytest.mark.usefixtures("looks")
def test_its_thread_ends_with_the_machine_suspended_or_not(until):
    for pauses in (False, True):
        limit = MemoryLimit(os.getpid(), 1 << 60, lambda _: None)
        if pauses:
            limit.pause()
        limit.end()
        until(lambda: not threads())
