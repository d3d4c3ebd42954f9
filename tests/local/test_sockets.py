"""The sockets by which machines reach the API."""

import socket

import pytest

from flyexecutor.local.sockets import OWN, Sockets


def test_a_machine_s_socket_answers_it_and_asks_no_name_server(tmp_path, monkeypatch):
    """http.server looks up the host name of what it binds; here that is a path."""
    asked = []
    monkeypatch.setattr(socket, "getfqdn", lambda name="": asked.append(name) or name)

    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "2")])
        return [environ[OWN].encode()]

    sockets = Sockets(tmp_path)
    sockets.application = application
    path = sockets.open("m1")
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        caller.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with caller.makefile("rb") as answer:
            assert answer.read().endswith(b"\r\n\r\nm1")
    sockets.close("m1")
    with socket.socket(socket.AF_UNIX) as caller, pytest.raises(FileNotFoundError):
        caller.connect(str(path))
    assert asked == []
