"""How many mails a visitor may send in an hour, counted in a real Redis; and who is one visitor."""

import re
import socket
from collections.abc import Callable, Iterator

import pytest
import redis
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from demo.app import create_app
from tests.demo.fakes import FakeExecutor

Send = Callable[..., TestResponse]


@pytest.fixture(autouse=True)
def three_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.visitors.MAILS_PER_HOUR", 3)
    monkeypatch.delenv("FLY_APP_NAME", raising=False)


@pytest.fixture
def web_process(redis_url: str, executor: FakeExecutor) -> Callable[..., FlaskClient]:
    """Makes one: an app with a counter of its own, and nothing in common with the others but Redis."""

    def make(url: str = redis_url) -> FlaskClient:
        return create_app(executor, secret_key="test", redis_url=url).test_client()  # type: ignore[arg-type]

    return make


def send(
    client: FlaskClient, address: str = "203.0.113.9", *, to: str = "ada@example.com", **headers: str
) -> TestResponse:
    base = "https://my-demo.fly.dev" if "Fly_Client_IP" in headers else "http://localhost"
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = {"base_url": base, "headers": given, "environ_overrides": {"REMOTE_ADDR": address}}
    token = re.search(r'name="csrf_token" type="hidden" value="([^"]+)"', client.get("/", **asked).text)
    assert token
    mail = {"to": to, "subject": "Hello", "body": "Dear Ada", "csrf_token": token[1]}
    return client.post("/", data=mail, **asked)


def test_the_limit_holds_for_all_web_processes_together(
    web_process: Callable[..., FlaskClient], executor: FakeExecutor
) -> None:
    one, other = web_process(), web_process()
    assert [send(client).status_code for client in (one, other, one)] == [303] * 3
    refused = send(other)
    assert refused.status_code == 429
    assert "60 minutes" in refused.text
    assert "Dear Ada" in refused.text, "what was typed is kept"
    assert 3590 <= int(refused.headers["Retry-After"]) <= 3600
    assert send(web_process()).status_code == 429, "without the cookie"
    assert len(executor.calls) == 3
    assert send(other, "203.0.113.10").status_code == 303, "another visitor"


def test_what_is_counted_is_forgotten_after_an_hour(
    web_process: Callable[..., FlaskClient], raw_redis: "redis.Redis"
) -> None:
    send(web_process())
    (key,) = raw_redis.scan_iter("*")
    assert key.startswith("demo:")
    assert 3590 <= raw_redis.ttl(key) <= 3600
    raw_redis.delete(key)


def test_a_mistake_in_the_form_is_not_counted(web_process: Callable[..., FlaskClient]) -> None:
    client = web_process()
    assert [send(client, to="ada").status_code for _ in range(5)] == [422] * 5
    assert send(client).status_code == 303


@pytest.mark.parametrize(
    ("addresses", "visitors"),
    [
        (["203.0.113.9", "203.0.113.10"], 2),
        (["2001:db8::1", "2001:db8::ffff:2"], 1),  # a household has 2**64 addresses
        (["2001:db8::1", "2001:db8:0:1::1"], 2),
        (["203.0.113.9", "::ffff:203.0.113.9"], 1),
    ],
)
def test_on_fly_the_proxy_says_who_the_visitor_is(
    web_process: Callable[..., FlaskClient],
    raw_redis: "redis.Redis",
    monkeypatch: pytest.MonkeyPatch,
    addresses: list[str],
    visitors: int,
) -> None:
    monkeypatch.setenv("FLY_APP_NAME", "my-demo")
    client = web_process()
    for address in addresses:
        assert send(client, "172.16.0.1", Fly_Client_IP=address, X_Forwarded_For="198.51.100.1").status_code == 303
    assert len(list(raw_redis.scan_iter("*"))) == visitors


def test_on_fly_who_comes_by_the_private_network_is_a_visitor_too(
    web_process: Callable[..., FlaskClient], raw_redis: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLY_APP_NAME", "my-demo")
    assert send(web_process(), "fdaa:0:1::3", Fly_Client_IP="nobody").status_code == 303
    (key,) = raw_redis.scan_iter("*")
    assert "fdaa:0:1::/64" in key


def test_elsewhere_nobody_writes_an_address_of_their_own(
    web_process: Callable[..., FlaskClient], raw_redis: "redis.Redis"
) -> None:
    client = web_process()
    for address in ("198.51.100.1", "198.51.100.2"):
        token = {"Fly-Client-IP": address, "X-Forwarded-For": address}
        shown = client.get("/", headers=token).text
        csrf = re.search(r'name="csrf_token" type="hidden" value="([^"]+)"', shown)
        assert csrf
        mail = {"to": "ada@example.com", "subject": "Hello", "body": "x", "csrf_token": csrf[1]}
        assert client.post("/", data=mail, headers=token).status_code == 303
    (key,) = raw_redis.scan_iter("*")
    assert "127.0.0.1" in key


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("port", ["closed_port", "deaf"])
def test_who_can_not_be_counted_sends_nothing(
    web_process: Callable[..., FlaskClient], executor: FakeExecutor, port: str, request: pytest.FixtureRequest
) -> None:
    answer = send(web_process(f"redis://127.0.0.1:{request.getfixturevalue(port)}"))
    assert answer.status_code == 503
    assert "nothing was sent" in answer.text
    assert "Dear Ada" in answer.text
    assert not executor.calls


def test_a_redis_that_refuses_to_count_lets_nobody_send_without_limit(
    web_process: Callable[..., FlaskClient], executor: FakeExecutor, raw_redis: "redis.Redis"
) -> None:
    client = web_process()
    send(client)
    (key,) = raw_redis.scan_iter("*")
    raw_redis.delete(key)
    raw_redis.rpush(key, "of another type")
    assert send(client).status_code == 503
    assert len(executor.calls) == 1
