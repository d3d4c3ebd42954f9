"""The worker's loop, by itself: what it waits for, and for how long."""

import faulthandler
import signal
import time

import pytest

from flyexecutor.payload.trust import Trust
from flyexecutor.worker.loop import Worker


@pytest.fixture
def worker(redis_url, monkeypatch):
    """Without runners, in this process: whose signals and watchdog it leaves alone."""
    for module, name in ((signal, "signal"), (signal, "set_wakeup_fd"), (faulthandler, "dump_traceback_later")):
        monkeypatch.setattr(module, name, lambda *_, **__: None)
    worker = Worker(
        [],
        app="tested",
        trust=Trust(b"k" * 32, "tested"),
        machine_id="m1",
        region="",
        lane="lane",
        redis_url=redis_url,
        idle_timeout=1.0,
        max_lifetime=60.0,
        suspends=True,
        warmup=b"",
        scheduled="",
    )
    yield worker
    worker._signals._out.close()
    worker._signals._in.close()


def test_the_patience_after_a_suspension_counts_no_pause_that_was_cut_short(worker, monkeypatch):
    def not_started():
        worker._signals._in.send(bytes([signal.SIGCHLD]))  # a child has died: the wait that follows ends at once
        return False

    monkeypatch.setattr(worker._membership, "join_if_started", not_started)
    began = time.monotonic()
    assert worker._wakes(0.3) is False
    assert time.monotonic() - began >= 0.3
