"""A thread of the client that dies, as none should, is told; no future waits for it, and nothing hangs."""

import threading

import pytest

from flyexecutor import FlyExecutorError
from flyexecutor.client.outbox import Outbox
from flyexecutor.client.watcher import Watcher
from flyexecutor.fleet.fleet import Fleet
from tests import tasks

WAIT = 30.0


@pytest.mark.parametrize("kind", [SystemExit, MemoryError, RecursionError])
@pytest.mark.parametrize("part", [Outbox, Watcher, Fleet])
def test_what_waits_for_it_ends_and_no_further_call_is_taken(make_executor, monkeypatch, caplog, part, kind):
    may_die = threading.Event()

    def run(self):
        may_die.wait(WAIT)
        raise kind("it died")

    monkeypatch.setattr(part, "run", run)
    executor = make_executor()
    future = executor.submit(tasks.increment, 1)
    may_die.set()
    error = future.exception(WAIT)
    assert type(error) is FlyExecutorError
    assert "has died" in str(error)
    for ask in (lambda: executor.submit(tasks.increment, 1), lambda: executor.flush(WAIT)):
        with pytest.raises(FlyExecutorError, match="has died"):
            ask()
    executor.shutdown()
    assert [record.levelname for record in caplog.records if "has died" in record.message] == ["CRITICAL"]
