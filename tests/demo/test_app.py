"""The page, through Flask's test client and with a stand-in for the executor."""

import re
from concurrent.futures import CancelledError
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from demo.app import create_app
from flyexecutor import CallForgottenError, MachineStartError, RedisUnavailableError, State
from tests.demo.fakes import FakeExecutor, FakeFuture
from worker.tasks import MailjetError, send_email

MAIL = {"to": "ada@example.com", "subject": "Hello", "body": "Dear Ada"}


def send(client: FlaskClient, **fields: str) -> TestResponse:
    token = re.search(r'name="csrf_token" type="hidden" value="([^"]+)"', client.get("/").text)
    assert token
    return client.post("/", data={**MAIL, **fields, "csrf_token": token[1]})


def mails(client: FlaskClient) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = client.get("/mails.json").get_json()["mails"]
    return listed


def newest(executor: FakeExecutor) -> FakeFuture:
    return list(executor.futures.values())[-1]


def test_a_valid_form_is_submitted_and_answered_with_a_redirect(client: FlaskClient, executor: FakeExecutor) -> None:
    response = send(client)
    assert (response.status_code, response.location) == (303, "/#mails")
    assert executor.calls == [(send_email, "ada@example.com", "Hello", "Dear Ada")]


def test_an_international_domain_is_submitted_in_its_ascii_form(client: FlaskClient, executor: FakeExecutor) -> None:
    send(client, to="ada@bücher.example.com")
    assert executor.calls[0][1] == "ada@xn--bcher-kva.example.com"


@pytest.mark.parametrize(
    ("fields", "wrong", "message"),
    [
        ({"to": ""}, "to", "Enter the address"),
        ({"to": "ada"}, "to", "Enter an address like"),
        ({"to": "ada@localhost"}, "to", "Enter an address like"),
        ({"to": "ada@example.com, bob@example.com"}, "to", "Enter an address like"),
        ({"to": "ada@example.com\r\nBcc: bob@example.com"}, "to", "Enter an address like"),
        ({"subject": " "}, "subject", "Enter a subject."),
        ({"subject": "x" * 256}, "subject", "255 characters"),
        ({"subject": "Hello\r\nBcc: bob@example.com"}, "subject", "single line"),
        ({"subject": "Hello\x00"}, "subject", "single line"),
        ({"body": " \n"}, "body", "Write a message."),
        ({"body": "x" * 10_001}, "body", "10,000 characters"),
    ],
)
def test_a_mistake_is_named_next_to_its_field(
    client: FlaskClient, executor: FakeExecutor, fields: dict[str, str], wrong: str, message: str
) -> None:
    response = send(client, **fields)
    assert response.status_code == 422
    assert f'aria-describedby="{wrong}-error"' in response.text
    assert response.text.count('aria-invalid="true"') == 1
    assert re.search(f'id="{wrong}-error">[^<]*{message}', response.text)
    assert f'<a href="#{wrong}">' in response.text
    assert not executor.calls


def test_a_rejected_form_keeps_what_was_typed(client: FlaskClient) -> None:
    shown = send(client, to="nope", subject="Kept subject", body="Kept\r\nbody").text
    assert 'value="nope"' in shown
    assert 'value="Kept subject"' in shown
    assert "Kept\nbody" in shown


def test_the_longest_mail_is_accepted_with_windows_line_ends(client: FlaskClient, executor: FakeExecutor) -> None:
    assert send(client, subject="x" * 255, body="\r\n".join("x" * 5000) + "x").status_code == 303
    assert len(executor.calls[0][3]) == 10_000


def test_a_huge_request_is_refused(client: FlaskClient) -> None:
    assert send(client, body="x" * 300_000).status_code == 413


def test_a_form_without_the_csrf_token_sends_nothing(client: FlaskClient, executor: FakeExecutor) -> None:
    response = client.post("/", data=MAIL)
    assert response.status_code == 400
    assert "nothing was sent" in response.text
    assert 'value="Hello"' in response.text
    assert not executor.calls


def test_a_token_of_another_session_sends_nothing(app: Flask, client: FlaskClient, executor: FakeExecutor) -> None:
    token = re.search(r'value="([^"]+)"', app.test_client().get("/").text)
    assert token
    assert client.post("/", data={**MAIL, "csrf_token": token[1]}).status_code == 400
    assert not executor.calls


def test_a_mail_goes_through_its_states(client: FlaskClient, executor: FakeExecutor) -> None:
    send(client)
    seen = [mails(client)[0]["status"]]
    newest(executor).begin()
    seen.append(mails(client)[0]["status"])
    newest(executor).succeed("456")
    seen.append(mails(client)[0]["status"])
    assert seen == ["PENDING", "SENDING", "SENT"]


def test_a_mistake_of_the_visitors_is_told_in_mailjets_words(client: FlaskClient, executor: FakeExecutor) -> None:
    send(client)
    newest(executor).fail(MailjetError("Mailjet refused the mail (HTTP 400): <it>", 400, "<it> is no address"))
    (mail,) = mails(client)
    assert (mail["status"], mail["note"]) == ("FAILED", "Mailjet does not take it: <it> is no address")
    assert "Mailjet does not take it: &lt;it&gt; is no address" in client.get("/").text


@pytest.mark.parametrize("state", [State.FAILED, State.LOST])
@pytest.mark.parametrize(
    "error",
    [
        MailjetError("MAILJET_API_KEY is not set in this machine: set it with `fly secrets set`", None),
        MailjetError("Mailjet could not be reached: HTTPConnectionPool(host='10.0.0.7', port=8080)"),
        MachineStartError("the token is not accepted: set FLY_API_TOKEN to what fly tokens create prints"),
        RuntimeError("connect to fdaa:0:1::3 failed"),
    ],
)
def test_what_the_operator_must_know_is_in_the_log_under_the_number_that_the_visitor_is_shown(
    client: FlaskClient,
    executor: FakeExecutor,
    state: State,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    send(client)
    newest(executor).fail(error, state)
    (mail,) = mails(client)
    number = newest(executor).id[:12]
    assert mail["note"] == f"It could not be sent. Should you ask about it, its number is {number}."
    assert mail["note"] in client.get("/").text
    assert str(error) not in client.get("/").text
    (told,) = [line for line in caplog.messages if str(error) in line]
    assert number in told


def test_a_cancelled_mail_has_failed(client: FlaskClient, executor: FakeExecutor) -> None:
    send(client)
    newest(executor).cancel()
    assert mails(client)[0]["status"] == "FAILED"


def test_a_failure_without_a_reason_is_still_told(client: FlaskClient, executor: FakeExecutor) -> None:
    send(client)
    newest(executor).fail(CancelledError(), State.LOST)
    assert mails(client)[0]["note"].startswith("It could not be sent.")


def test_an_error_of_ours_is_told_with_a_number_that_the_log_has(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("internal to us")

    monkeypatch.setattr("demo.mails.Handles.look", broken)
    answer = client.get("/mails.json?\n")
    assert answer.status_code == 500
    assert "internal" not in answer.text
    found = re.search(r"its number is (\w{12})\.", answer.text)
    assert found
    (record,) = [one for one in caplog.records if found[1] in one.getMessage()]
    assert record.exc_info
    assert "internal to us" in str(record.exc_info[1])


def test_a_mail_that_is_no_longer_known_has_expired(client: FlaskClient, executor: FakeExecutor, app: Flask) -> None:
    send(client)
    executor.forgotten.add(newest(executor).id)
    assert mails(in_another_process(app, client, executor))[0]["status"] == "EXPIRED"


def test_a_mail_that_redis_lost_while_it_was_pending_has_expired(client: FlaskClient, executor: FakeExecutor) -> None:
    send(client)
    newest(executor).trouble = CallForgottenError("Redis was emptied")
    assert mails(client)[0]["status"] == "EXPIRED"


def test_another_process_finds_the_mails_by_their_ids(client: FlaskClient, executor: FakeExecutor, app: Flask) -> None:
    send(client)
    newest(executor).succeed("456")
    assert mails(in_another_process(app, client, executor))[0]["status"] == "SENT"
    assert executor.attached == 1


def test_a_process_attaches_to_a_mail_once(client: FlaskClient, executor: FakeExecutor, app: Flask) -> None:
    send(client)
    other = in_another_process(app, client, executor)
    for _ in range(3):
        mails(other)
    assert executor.attached == 1


def in_another_process(app: Flask, client: FlaskClient, executor: FakeExecutor) -> FlaskClient:
    """The same visitor, served by a second app that has the first one's key and knows none of its futures."""
    other = create_app(executor, secret_key="test").test_client()  # type: ignore[arg-type]
    cookie = client.get_cookie("session")
    assert cookie is not None
    other.set_cookie("session", cookie.value)
    return other


def test_polling_ends_when_all_mails_are_finished(client: FlaskClient, executor: FakeExecutor) -> None:
    assert client.get("/mails.json").get_json() == {"unfinished": False, "mails": []}
    send(client)
    assert client.get("/mails.json").get_json()["unfinished"]
    newest(executor).succeed("456")
    assert not client.get("/mails.json").get_json()["unfinished"]


def test_the_page_reloads_itself_without_script_only_while_something_is_unfinished(
    client: FlaskClient, executor: FakeExecutor
) -> None:
    refresh = '<noscript><meta http-equiv="refresh"'
    send(client)
    assert refresh in client.get("/").text
    assert refresh not in send(client, to="nope").text, "it would throw away what was typed"
    newest(executor).succeed("456")
    assert refresh not in client.get("/").text


def test_the_newest_mail_comes_first(client: FlaskClient) -> None:
    send(client, subject="the first")
    send(client, subject="the second")
    assert [mail["subject"] for mail in mails(client)] == ["the second", "the first"]


def test_nobody_sees_the_mails_of_another_session(client: FlaskClient, app: Flask) -> None:
    send(client, subject="private matter")
    stranger = app.test_client()
    assert "private matter" not in stranger.get("/").text
    assert mails(stranger) == []


def test_a_forged_cookie_is_worth_nothing(client: FlaskClient, app: Flask) -> None:
    send(client)
    forger = create_app(FakeExecutor(), secret_key="guessed").test_client()  # type: ignore[arg-type]
    cookie = client.get_cookie("session")
    assert cookie is not None
    forger.set_cookie("session", cookie.value)
    assert mails(forger) == []


def test_html_in_a_mail_is_shown_as_text(client: FlaskClient) -> None:
    send(client, subject="<script>alert(1)</script>")
    shown = client.get("/").text
    assert "<script>alert" not in shown
    assert "&lt;script&gt;alert(1)" in shown


@pytest.mark.parametrize(
    "subject", ["x" * 255, "\N{PARTY POPPER}" * 255, '"\\' * 127], ids=["ascii", "emoji", "quotes"]
)
def test_the_cookie_stays_below_what_browsers_keep(client: FlaskClient, subject: str) -> None:
    for number in range(25):
        response = send(client, to=f"{'x' * 60}@{'y' * 60}{number}.example.com", subject=subject)
        assert len(response.headers["Set-Cookie"]) < 4093
    assert 5 <= len(mails(client)) <= 20


def test_the_list_holds_the_newest_twenty(client: FlaskClient) -> None:
    for number in range(22):
        send(client, subject=f"number {number}")
    assert [mail["subject"] for mail in mails(client)] == [f"number {n}" for n in range(21, 1, -1)]


def test_without_redis_nothing_is_promised_and_the_input_is_kept(client: FlaskClient, executor: FakeExecutor) -> None:
    executor.away = True
    response = send(client)
    assert response.status_code == 503
    assert "nothing was sent" in response.text
    assert f"its number is {newest(executor).id[:12]}." in response.text
    assert "Dear Ada" in response.text
    assert newest(executor).cancelled(), "it must not go out later, after the visitor was told to try again"
    assert mails(client) == []


def test_a_mail_that_may_still_go_out_stays_in_the_list(client: FlaskClient, executor: FakeExecutor) -> None:
    executor.away = True
    executor.uncancellable = True
    response = send(client)
    assert response.status_code == 503
    assert "may still go out" in response.text
    assert len(mails(client)) == 1


def test_without_redis_the_list_says_that_it_can_not_tell(
    client: FlaskClient, executor: FakeExecutor, app: Flask
) -> None:
    send(client)
    executor.away = True
    other = in_another_process(app, client, executor)
    (mail,) = mails(other)
    assert mail["status"] == "UNKNOWN"
    assert "UNKNOWN" in other.get("/").text
    assert other.get("/mails.json").get_json()["unfinished"], "it may be told later"


def test_without_redis_the_list_waits_for_it_only_once(client: FlaskClient, executor: FakeExecutor, app: Flask) -> None:
    for _ in range(3):
        send(client)
    executor.away = True
    assert [mail["status"] for mail in mails(in_another_process(app, client, executor))] == ["UNKNOWN"] * 3
    assert executor.attached == 1


def test_without_redis_a_mail_that_has_ended_is_still_told(client: FlaskClient, executor: FakeExecutor) -> None:
    send(client)
    newest(executor).succeed("456")
    send(client)
    newest(executor).trouble = RedisUnavailableError("Redis can't be reached")
    assert [mail["status"] for mail in mails(client)] == ["UNKNOWN", "SENT"]


def test_a_state_that_can_not_be_read_is_unknown(client: FlaskClient, executor: FakeExecutor) -> None:
    send(client)
    newest(executor).trouble = RedisUnavailableError("Redis can't be reached")
    assert mails(client)[0]["status"] == "UNKNOWN"


def test_a_poll_never_sends_the_cookie_back(client: FlaskClient) -> None:
    send(client)
    assert "Set-Cookie" not in client.get("/mails.json").headers


@pytest.mark.parametrize(("base_url", "secure"), [("http://localhost", False), ("https://localhost", True)])
def test_the_cookie_is_out_of_reach(app: Flask, base_url: str, secure: bool) -> None:
    cookie = app.test_client().get("/", base_url=base_url).headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert ("Secure" in cookie) is secure


@pytest.mark.parametrize(("behind_fly", "secure"), [(True, True), (False, False)])
def test_the_proxys_word_counts_only_on_fly(monkeypatch: pytest.MonkeyPatch, behind_fly: bool, secure: bool) -> None:
    if behind_fly:
        monkeypatch.setenv("FLY_APP_NAME", "my-demo")
    else:
        monkeypatch.delenv("FLY_APP_NAME", raising=False)
    app = create_app(FakeExecutor(), secret_key="test")  # type: ignore[arg-type]
    name = "http://my-demo.fly.dev" if behind_fly else "http://localhost"
    answer = app.test_client().get("/", base_url=name, headers={"X-Forwarded-Proto": "https"})
    cookie = answer.headers["Set-Cookie"]
    assert ("Secure" in cookie) is secure


def test_every_answer_forbids_foreign_and_inline_code(client: FlaskClient) -> None:
    for path in ("/", "/mails.json", "/healthz", "/static/mails.js", "/nowhere"):
        with client.get(path) as response:
            policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    shown = client.get("/").text
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>|//[a-z]+\.", shown)


def test_a_personal_page_is_not_cached(client: FlaskClient) -> None:
    assert client.get("/").headers["Cache-Control"] == "no-store"


def test_the_health_check_asks_nobody(client: FlaskClient, executor: FakeExecutor) -> None:
    executor.away = True
    assert client.get("/healthz").status_code == 200


def test_without_a_mailbox_there_is_no_such_page(client: FlaskClient) -> None:
    assert client.get("/mailbox").status_code == 404
    assert "mailbox" not in client.get("/").text


def test_a_mailbox_that_is_not_running_is_said_to_be(unused_port: int) -> None:
    app = create_app(FakeExecutor(), secret_key="test", mailbox_url=f"http://127.0.0.1:{unused_port}")  # type: ignore[arg-type]
    response = app.test_client().get("/mailbox")
    assert (response.status_code, response.text) == (503, "The mailbox is not running.")


def test_a_missing_secret_key_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECRET_KEY", raising=False)
    monkeypatch.delenv("FLASK_SECRET_KEY", raising=False)
    with pytest.raises(RuntimeError, match=r"^SECRET_KEY is not set"):
        create_app(FakeExecutor())  # type: ignore[arg-type]


def test_a_mail_that_waits_for_a_machine_is_listed_and_not_taken_back(
    client: FlaskClient, executor: FakeExecutor
) -> None:
    executor.without_machines = True
    assert send(client).status_code == 303
    assert "PENDING" in client.get("/").text
    (future,) = executor.futures.values()
    assert not future.cancelled()
