"""The client's own part: how it ends, and what it takes. Its threads are a test's, and nothing is connected."""

from types import SimpleNamespace

import pytest

from flyexecutor import FlyExecutorError, Retry
from flyexecutor.call import Call
from flyexecutor.client.caller import Caller
from flyexecutor.client.client import Client
from flyexecutor.client.fleets import Fleets
from flyexecutor.client.outbox import Outbox
from flyexecutor.client.threads import Threads
from flyexecutor.client.watcher import Watcher
from flyexecutor.lane import Lane
from flyexecutor.options import Options
from flyexecutor.settings import Settings
from flyexecutor.states import State

LANE = Lane("lane", {}, (), 1, 1, 60.0)
SETTINGS = Settings("app", "token", "http://127.0.0.1:9", "redis://127.0.0.1:9", "image", (), b"k" * 32)


@pytest.fixture
def said(monkeypatch):
    """What the parts of a client are told at its end; no thread is started."""
    said = []
    for part in (Outbox, Watcher):
        monkeypatch.setattr(part, "close", lambda self, error=None: said.append((type(self).__name__, error)))
    monkeypatch.setattr(Fleets, "close", lambda _: said.append(("Fleets", None)))
    monkeypatch.setattr(Client, "_disconnect", lambda _: said.append(("connections", None)))
    monkeypatch.setattr(Threads, "start", lambda _: None)
    return said


@pytest.fixture
def client(said):
    return Client(SETTINGS, LANE, SETTINGS.make_trust(), result_ttl=60.0)


def send(client, key=None):
    call_id = client._trust.new_call_id(key)
    return client.send(Call(call_id, b"", keyed=key is not None), LANE)


def parts(error):
    return [("Outbox", error), ("Fleets", None), ("Watcher", error), ("connections", None)]


def test_a_client_that_is_closed_ends_all_its_parts_and_then_the_connections(client, said):
    client.close()
    assert said == parts(None)


def test_a_client_of_which_a_thread_has_died_ends_as_one_that_is_closed_but_with_the_error(client, said, caplog):
    client._break("outbox", MemoryError())
    error = said[0][1]
    assert str(error).startswith("the outbox thread of the executor has died (MemoryError()): ")
    assert said == parts(error)
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
    for ask in (lambda: send(client), lambda: client.attaching.attach(client._trust.new_call_id())):
        with pytest.raises(FlyExecutorError) as told:
            ask()
        assert told.value is error
    said.clear()
    closed = []
    client.close_when_drained(lambda: closed.append(True))  # there is nobody to tell when that is
    assert (said, closed) == (parts(None), [True])


def test_nobody_sends_between_the_death_of_a_thread_and_the_end_of_what_is_pending(client, said, monkeypatch):
    pending = []
    monkeypatch.setattr(Outbox, "close", lambda *_: pending.extend(client._watcher.pending()))
    future = send(client)
    client._break("watcher", MemoryError())
    assert pending == [future]
    with pytest.raises(FlyExecutorError, match="has died"):
        send(client)
    assert client._watcher.pending() == [future]


def test_a_client_that_sends_no_more_answers_what_has_not_ended(client):
    future = send(client)
    assert client.stop_sending() == [future]
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        send(client)


def test_a_second_submit_with_a_key_gets_the_future_of_the_first_unless_that_was_never_stored(client):
    first, other = send(client, "key"), send(client)
    assert send(client, "key") is first
    assert other is not first
    assert first.cancel()
    again = send(client, "key")
    assert again is not first
    assert send(client, "key") is again


def parts_of(client):
    attaching, threads = client.attaching, client._threads
    return client.store, client._outbox, client._watcher, client.fleets, attaching, threads, client._id


def test_a_fork_has_parts_and_an_id_of_its_own_and_nothing_of_the_parent_s_end(client):
    client._break("outbox", MemoryError())
    before = parts_of(client)
    client._wire()  # as after_in_child
    after = parts_of(client)
    assert not set(map(id, before)) & set(map(id, after))
    assert send(client) in client._watcher.pending()


def test_a_batch_of_before_a_fork_asks_over_connections_of_the_child(client, monkeypatch):
    batch = Caller(client, client._trust, SimpleNamespace(lane=LANE), Options(Retry()), None).submit_batch(abs, [[1]])
    client._wire()  # as after_in_child
    monkeypatch.setattr(client.store.listing, "states", lambda ids: [State.RUNNING for _ in ids])
    assert batch.counts() == {"RUNNING": 1}
