"""A machine suspends itself: what it makes of an answer, and of none."""

import socket
import threading
from contextlib import contextmanager

import pytest

from flyexecutor.worker import power


@contextmanager
def api(tmp_path, monkeypatch, serve):
    """The machine's own socket, one of whose connections is served."""
    path = tmp_path / "api"
    monkeypatch.setenv(power.SOCKET_VARIABLE, str(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def accept():
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield
        thread.join()


def test_who_is_suspended_as_soon_as_it_has_asked_has_nothing_left_to_send(tmp_path, monkeypatch):
    """Fly may take its snapshot, and have answered, while the request is under way."""
    answered, send = threading.Event(), power._Connection.send

    def serve(connection):
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        connection.close()
        answered.set()

    def send_and_be_suspended(self, data):
        send(self, data)
        assert answered.wait(10)

    monkeypatch.setattr(power._Connection, "send", send_and_be_suspended)
    with api(tmp_path, monkeypatch, serve):
        assert power.suspend("app", "machine")


def test_a_connection_that_is_dead_when_it_asks_is_no_refusal(tmp_path, monkeypatch):
    """Somebody else has had it suspended in between, and resumed."""
    dead, send = threading.Event(), power._Connection.send

    def serve(connection):
        connection.close()
        dead.set()

    def send_late(self, data):
        self.connect()
        assert dead.wait(10)
        send(self, data)

    monkeypatch.setattr(power._Connection, "send", send_late)
    with api(tmp_path, monkeypatch, serve):
        assert power.suspend("app", "machine")


@pytest.mark.parametrize(("status", "suspended"), [(b"200 OK", True), (b"412 Precondition Failed", False)])
def test_an_answer_is_believed(tmp_path, monkeypatch, status, suspended):
    def serve(connection):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")

    with api(tmp_path, monkeypatch, serve):
        assert power.suspend("app", "machine") is suspended


def test_without_a_socket_it_is_not_suspended(tmp_path, monkeypatch):
    monkeypatch.setenv(power.SOCKET_VARIABLE, str(tmp_path / "none"))
    assert not power.suspend("app", "machine")


def test_a_refusal_that_quotes_the_machines_environment_is_logged_without_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FLYEXECUTOR_REDIS_URL", "redis://:geheim@h:1")
    monkeypatch.setenv("FLYEXECUTOR_KEY", "00ff" * 16)

    def serve(connection):
        connection.recv(4096)
        said = b'{"error": "can\'t, with redis://:geheim@h:1, geheim and ' + b"00ff" * 16 + b'\x1b[2J"}'
        connection.sendall(b"HTTP/1.1 422 No\r\nContent-Length: %d\r\n\r\n" % len(said) + said)

    with api(tmp_path, monkeypatch, serve):
        assert not power.suspend("app", "machine")
    (record,) = caplog.records
    assert record.getMessage() == (
        'can\'t be suspended (HTTP 422), stops instead: {"error": "can\'t, with ***, *** and ***\\x1b[2J"}'
    )
