"""The process has too many threads: submit raises what Python raises, and once there is room calls run again."""

import threading

import pytest

from tests import tasks

WAIT = 30.0


@pytest.mark.parametrize("refused", ["outbox", "watcher", "fleet"])
def test_the_next_submit_starts_the_thread_that_could_not_be_started(make_executor, monkeypatch, refused):
    executor = make_executor(max_workers=1)
    start = threading.Thread.start

    def start_others(thread):
        if thread.name == f"flyexecutor {refused}":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start_others)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            executor.submit(tasks.increment, 1)
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2
