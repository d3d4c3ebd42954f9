"""What stands between a visitor and the page: names of hosts, headers, cookies."""

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from demo.app import create_app
from demo.mailbox import create_mailbox
from tests.demo.fakes import FakeExecutor

FLY_PAGE = "https://my-demo.fly.dev"


@pytest.fixture
def on_fly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLY_APP_NAME", "my-demo")


def demo_app() -> Flask:
    return create_app(FakeExecutor(), secret_key="test")  # type: ignore[arg-type]


def demo_page() -> FlaskClient:
    return demo_app().test_client()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "127.0.0.1:8123"])
@pytest.mark.parametrize("make", [demo_app, lambda: create_mailbox("key", "secret")], ids=["demo", "mailbox"])
def test_a_laptop_answers_to_its_own_names(make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLY_APP_NAME", raising=False)
    client = make().test_client()
    path = "/" if "index" in client.application.view_functions else "/mailbox"
    assert client.get(path, headers={"Host": name}).status_code == 200
    # A page whose name leads here for a moment (DNS rebinding) would read and send in the visitor's name.
    for foreign in ("rebound.example.com", f"{name}.example.com", "169.254.16.1", "my-demo.fly.dev", ""):
        refused = client.get(path, headers={"Host": foreign})
        assert refused.status_code == 400
        assert "<form" not in refused.text


@pytest.mark.usefixtures("on_fly")
def test_on_fly_it_answers_to_its_name_there_and_to_those_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_HOSTS", "www.example.com, .example.org")
    client = demo_page()
    for name in ("my-demo.fly.dev", "www.example.com", "a.example.org"):
        assert client.get("/", headers={"Host": name}).status_code == 200
    for name in ("localhost", "127.0.0.1", "other.fly.dev", "example.com"):
        assert client.get("/", headers={"Host": name}).status_code == 400


@pytest.mark.usefixtures("on_fly")
def test_flys_health_check_names_the_machine_by_its_address() -> None:
    checked = demo_page().get("/healthz", headers={"Host": "172.19.0.2:8080"})
    assert (checked.status_code, checked.text) == (200, "ok\n")


def test_a_trusted_host_that_is_an_address_of_a_page_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_HOSTS", "https://www.example.com")
    with pytest.raises(RuntimeError, match=r"^TRUSTED_HOSTS has 'https://www\.example\.com'.* like www\.example\.com"):
        demo_app()


@pytest.mark.usefixtures("on_fly")
def test_behind_tls_browsers_are_told_to_stay_there() -> None:
    client = demo_page()
    assert client.get("/", base_url=FLY_PAGE).headers["Strict-Transport-Security"] == "max-age=31536000"
    assert "Strict-Transport-Security" not in client.get("/", base_url="http://my-demo.fly.dev").headers


@pytest.mark.parametrize("make", [demo_app, lambda: create_mailbox("key", "secret")], ids=["demo", "mailbox"])
def test_every_answer_has_the_headers(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLY_APP_NAME", raising=False)
    client = make().test_client()
    for path in ("/", "/mailbox", "/healthz", "/static/mails.js", "/nowhere"):
        with client.get(path) as answer:
            headers = answer.headers
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_cookie_of_the_key_before_is_good_until_that_key_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLY_APP_NAME", raising=False)
    executor = FakeExecutor()

    def page_with(key: str, fallbacks: str = "") -> FlaskClient:
        monkeypatch.setenv("SECRET_KEY", key)
        monkeypatch.setenv("SECRET_KEY_FALLBACKS", fallbacks)
        return create_app(executor).test_client()  # type: ignore[arg-type]

    def send(client: FlaskClient) -> None:
        token = re.search(r'name="csrf_token" type="hidden" value="([^"]+)"', client.get("/").text)
        assert token
        mail = {"to": "ada@example.com", "subject": "Hello", "body": "x", "csrf_token": token[1]}
        assert client.post("/", data=mail).status_code == 303

    def mails_seen(client: FlaskClient, brought: str) -> int:
        client.set_cookie("session", brought)
        return len(client.get("/mails.json").get_json()["mails"])

    def cookie_of(client: FlaskClient) -> str:
        cookie = client.get_cookie("session")
        assert cookie
        return cookie.value

    before = page_with("first")
    send(before)
    rotated = page_with("second", "first, zeroth")
    assert mails_seen(rotated, cookie_of(before)) == 1
    send(rotated)  # signs with the new key
    assert mails_seen(page_with("second"), cookie_of(rotated)) == 2
    assert mails_seen(page_with("second"), cookie_of(before)) == 0
