"""The mailbox on a real socket, driven by Mailjet's own client: what it does not notice, nobody will."""

import threading
from collections.abc import Iterator

import pytest
import requests
from mailjet_rest import Client
from werkzeug.serving import make_server

from demo.mailbox import create_mailbox
from worker.tasks import MailjetError, send_email

KEY, SECRET = "the-key-of-mailjet", "the-secret-of-mailjet"


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, create_mailbox(KEY, SECRET), threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("MAILJET_API_KEY", KEY)
    monkeypatch.setenv("MAILJET_API_SECRET_KEY", SECRET)
    monkeypatch.setenv("MAILJET_SENDER", "demo@example.com")
    monkeypatch.setenv("MAILJET_API_URL", address)
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


def page(url: str) -> str:
    return requests.get(f"{url}/mailbox", timeout=5).text


def test_a_mail_that_was_sent_is_on_the_page(url: str) -> None:
    message_id = send_email("ada@example.com", "Hello", "Dear Ada")
    shown = page(url)
    assert all(part in shown for part in (message_id, "ada@example.com", "demo@example.com", "Hello", "Dear Ada"))


def test_the_newest_mail_comes_first(url: str) -> None:
    send_email("ada@example.com", "the first", "x")
    send_email("ada@example.com", "the second", "x")
    shown = page(url)
    assert shown.index("the second") < shown.index("the first")


def test_each_mail_has_its_own_id(url: str) -> None:
    assert send_email("ada@example.com", "Hello", "x") != send_email("ada@example.com", "Hello", "x")


def test_success_has_mailjets_shape(url: str) -> None:
    message = {
        "From": {"Email": "demo@example.com"},
        "To": [{"Email": "a@example.com"}, {"Email": "b@example.com"}],
        "TextPart": "x",
    }
    with Client(auth=(KEY, SECRET), version="v3.1", api_url=url) as mailjet:
        (answer,) = mailjet.send.create(data={"Messages": [message]}).json()["Messages"]
    assert answer["Status"] == "success"
    assert [to["Email"] for to in answer["To"]] == ["a@example.com", "b@example.com"]
    assert all(isinstance(to["MessageID"], int) and to["MessageUUID"] and to["MessageHref"] for to in answer["To"])


def test_html_is_shown_as_text(url: str) -> None:
    send_email("ada@example.com", "<img src=x onerror=alert(1)>", "</pre><script>alert(1)</script>")
    shown = page(url)
    assert "<script>" not in shown
    assert "<img" not in shown
    assert "&lt;script&gt;" in shown


@pytest.mark.parametrize("address", ["ada", "ada@", "@example.com", "refused@example.com"])
def test_a_bad_recipient_is_refused_as_mailjet_does(url: str, address: str) -> None:
    with pytest.raises(MailjetError, match=f'HTTP 400.*"{address}" is an invalid email address') as caught:
        send_email(address, "Hello", "x")
    assert caught.value.status == 400
    assert "0 mails" in page(url)


def test_an_empty_body_is_refused(url: str) -> None:
    with pytest.raises(MailjetError, match='At least "HTMLPart", "TextPart"'):
        send_email("ada@example.com", "Hello", "")


def test_a_subject_that_is_too_long_is_refused(url: str) -> None:
    with pytest.raises(MailjetError, match="255"):
        send_email("ada@example.com", "x" * 256, "x")


def test_wrong_keys_are_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILJET_API_SECRET_KEY", "wrong")
    with pytest.raises(MailjetError, match="API key authentication") as caught:
        send_email("ada@example.com", "Hello", "x")
    assert caught.value.status == 401


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"Messages": []}', b'{"Messages": {}}'])
def test_a_request_that_is_not_a_list_of_messages_is_malformed(url: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = requests.post(f"{url}/v3.1/send", body, headers=headers, auth=(KEY, SECRET), timeout=5)
    assert (answer.status_code, answer.json()["ErrorCode"]) == (400, "mj-0002")


@pytest.mark.parametrize("message", [None, 1, {}, {"From": "x", "To": []}, {"From": {"Email": "a@example.com"}}])
def test_a_message_without_mandatory_properties_is_refused(url: str, message: object) -> None:
    answer = requests.post(f"{url}/v3.1/send", json={"Messages": [message]}, auth=(KEY, SECRET), timeout=5)
    assert (answer.status_code, answer.json()["Messages"][0]["Errors"][0]["ErrorCode"]) == (400, "mj-0003")


def test_without_auth_nothing_is_taken(url: str) -> None:
    assert requests.post(f"{url}/v3.1/send", json={}, timeout=5).status_code == 401
