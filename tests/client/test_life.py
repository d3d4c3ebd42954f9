"""The end of an executor, with a client that only records what it is asked for."""

import gc
import secrets
from types import SimpleNamespace

import pytest

from flyexecutor import FlyMachineExecutor
from flyexecutor.client import life as module
from flyexecutor.client.client import Client
from flyexecutor.client.future import FlyFuture
from flyexecutor.client.life import Life


class RecordedClient:
    def __init__(self, said):
        self.said = said
        self.futures = []

    def stop_sending(self):
        self.said.append("stop")
        return self.futures

    def cancel_all(self, futures):
        self.said.append(("cancel", *futures))

    def close(self):
        self.said.append("close")

    def close_when_drained(self, then):
        self.said.append("close when drained")
        then()


class RecordedLocal:
    def __init__(self, said):
        self.said = said
        self.is_own, self.name = False, "ours"

    def close(self):
        self.said.append("close local")


class Side:
    def __init__(self):
        self.said = []
        self.client, self.local = RecordedClient(self.said), RecordedLocal(self.said)
        self.life = Life(self.client, self.local)

    def call(self, *, attached=False, name="work"):
        self.client.futures.append(FlyFuture("id", None, keep=True, attached=attached, name=name))
        return self.client.futures[-1]


@pytest.fixture
def side():
    return Side()


@pytest.fixture
def waited(monkeypatch):
    """Waiting takes a step of a test's each time, and no time."""
    waited = SimpleNamespace(steps=[], calls=[])

    def wait(futures, timeout=None):
        waited.calls.append((list(futures), timeout))
        waited.steps.pop(0)()
        return SimpleNamespace(not_done={future for future in futures if not future.done()})

    monkeypatch.setattr(module.concurrent.futures, "wait", wait)
    return waited


@pytest.mark.parametrize("cancel", [True, False])
def test_a_shutdown_waits_for_what_has_not_ended_and_closes_then(side, waited, cancel):
    future = side.call()
    waited.steps.append(lambda: side.said.append("waited"))
    side.life.shutdown(wait=True, cancel_futures=cancel)
    assert side.said == ["stop", *([("cancel", future)] if cancel else []), "waited", "close", "close local"]
    assert waited.calls == [([future], None)]


def test_a_shutdown_that_does_not_wait_leaves_the_end_to_the_client(side):
    side.call()
    side.life.shutdown(wait=False, cancel_futures=False)
    assert side.said == ["stop", "close when drained", "close local"]


def test_an_executor_that_nobody_holds_delivers_what_it_has_sent(side):
    side.life = None
    gc.collect()
    assert side.said == ["close when drained", "close local"]


def test_an_executor_that_only_a_map_needs_lives_until_that_has_sent_all(monkeypatch):
    ended = []
    monkeypatch.setattr(Client, "send", lambda *_, **__: FlyFuture("id", None, keep=False, attached=False))
    monkeypatch.setattr(Client, "close_when_drained", lambda *_: ended.append("ended"))
    where = {
        "image": "image",
        "token": "token",
        "redis_url": "redis://127.0.0.1:9",
        "secret": secrets.token_urlsafe(32),
    }
    results = FlyMachineExecutor("app", **where).map(abs, range(3), buffersize=1)
    gc.collect()
    assert ended == []
    del results
    gc.collect()
    assert ended == ["ended"]


def test_after_ctrl_c_what_runs_is_waited_for_in_steps_and_what_others_have_submitted_is_not_cancelled(
    side, waited, caplog
):
    runs, waits = side.call(name="long"), side.call(name="queued")
    side.call(attached=True)
    side.client.cancel_all = lambda futures: [side.said.append(("cancel", *futures)), waits.end_cancelled()]
    waited.steps += [lambda: None, lambda: runs.set_result(1)]
    side.life.end_interrupted()
    assert side.said == ["stop", ("cancel", runs, waits), "close", "close local"]
    assert waited.calls == [([runs], module.INTERRUPTED_WITHIN)] * 2
    (told,) = caplog.messages
    assert told.startswith("1 call that had not begun is cancelled, 1 call (long) still runs and is waited for: ")
    assert "--name ours" in told


def test_of_a_local_fly_that_ends_too_ctrl_c_says_that_it_ends_the_calls(side, waited, caplog):
    future = side.call()
    side.local.is_own, side.local.name = True, None
    waited.steps.append(lambda: future.set_result(1))
    side.life.end_interrupted()
    assert caplog.messages[0].endswith("Ctrl-C again ends it")


def test_a_second_ctrl_c_ends_all_the_same(side, waited):
    side.call()

    def interrupt():
        raise KeyboardInterrupt

    waited.steps.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        side.life.end_interrupted()
    assert side.said[-2:] == ["close", "close local"]


def test_with_nothing_under_way_nothing_is_told(side, waited, caplog):
    waited.steps.append(lambda: None)
    side.life.end_interrupted()
    assert (side.said, caplog.messages) == (["stop", ("cancel",), "close", "close local"], [])
