"""The demo app with a stand-in for the executor, and its visitor."""

import socket
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from demo.app import create_app
from tests.demo.fakes import FakeExecutor


@pytest.fixture(autouse=True)
def counted_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted of visitors is not in Redis, but in the test's own app."""
    monkeypatch.setenv("REDIS_URL", "memory://")


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor()


@pytest.fixture
def app(executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch) -> Flask:
    monkeypatch.delenv("FLY_APP_NAME", raising=False)
    app = create_app(executor, secret_key="test")  # type: ignore[arg-type]
    app.testing = True
    return app


@pytest.fixture
def client(app: Flask) -> Iterator[FlaskClient]:
    with app.test_client() as client:
        yield client


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
