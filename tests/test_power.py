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


def test_a_snapshot_between_the_two_halves_of_the_request_is_no_refusal(tmp_path, monkeypatch):
    """Head and body are sent apart: resumed in between, the machine finds that its connection is dead."""
    dead, send = threading.Event(), power._Connection.send

    def serve(connection):
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(4096)
        connection.close()
        dead.set()

    def send_apart(self, data):
        if not data.startswith(b"POST"):
            assert dead.wait(30)
        send(self, data)

    monkeypatch.setattr(power._Connection, "send", send_apart)
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
