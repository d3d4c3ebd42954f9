"""Clients that send a byte now and then, to a real gunicorn on a real socket."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

BEGUN = {
    "head": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "body": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: 100000\r\n\r\nbody=",
    "chunk": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n10000\r\nbody=",
}
THREADS = 2


@pytest.fixture
def server(unused_port: int) -> "Iterator[tuple[int, subprocess.Popen[str]]]":
    command = [sys.executable, "-m", "gunicorn", "tests.demo.web:app", "--bind", f"127.0.0.1:{unused_port}"]
    command += ["--workers", "1", "--threads", str(THREADS), "--no-control-socket"]
    command += ["--worker-class", "tests.demo.web.Impatient"]
    environ = {name: value for name, value in os.environ.items() if name != "FLY_APP_NAME"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stderr
        for line in process.stderr:
            if "Booting worker" in line:
                break
        yield unused_port, process
        process.terminate()


class Dribble(threading.Thread):
    """A request that never ends: a byte every twentieth of a second, until the server has had enough."""

    def __init__(self, port: int, begun: bytes) -> None:
        super().__init__(daemon=True)
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=0.05)
        self.socket.sendall(begun)
        self.answer = b""
        self.start()

    def run(self) -> None:
        with self.socket, contextlib.suppress(OSError):  # of a server that has closed
            while True:
                self.socket.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    received = self.socket.recv(4096)
                    if not received:
                        return
                    self.answer += received


@pytest.mark.parametrize("where", BEGUN)
def test_slow_clients_hold_no_thread_for_long(server: "tuple[int, subprocess.Popen[str]]", where: str) -> None:
    port, process = server
    slow = [Dribble(port, BEGUN[where]) for _ in range(2 * THREADS)]
    assert requests.get(f"http://127.0.0.1:{port}/", timeout=20).status_code == 200
    for one in slow:
        one.join(20)
        assert not one.is_alive(), "the server has let go of it"
        assert b" 500 " not in one.answer
        assert b" 303 " not in one.answer
    process.terminate()
    assert process.stderr
    assert "Traceback" not in process.stderr.read()


def test_the_page_at_fly_is_served_so() -> None:
    settings = tomllib.loads((Path(__file__).parent.parent.parent / "fly.toml").read_text())
    assert "--worker-class demo.server.Worker" in settings["processes"]["web"]
