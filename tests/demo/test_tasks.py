"""worker.tasks against Mailjet's answers, played back by `responses`."""

import pickle
from typing import Any

import pytest
import requests
import responses

from worker import tasks
from worker.tasks import MailjetError, send_email

URL = "https://api.mailjet.com/v3.1/send"
KEY, SECRET = "the-key-of-mailjet", "the-secret-of-mailjet"
SUCCESS = {
    "Messages": [{"Status": "success", "To": [{"Email": "ada@example.com", "MessageID": 456, "MessageUUID": "u"}]}]
}
INVALID = {
    "Messages": [
        {"Status": "error", "Errors": [{"ErrorCode": "mj-0013", "ErrorMessage": '"ada" is an invalid email address.'}]}
    ]
}


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILJET_API_KEY", KEY)
    monkeypatch.setenv("MAILJET_API_SECRET_KEY", SECRET)
    monkeypatch.setenv("MAILJET_SENDER", "demo@example.com")
    monkeypatch.delenv("MAILJET_API_URL", raising=False)
    monkeypatch.setattr(tasks, "RETRIES", tasks.RETRIES.new(backoff_factor=0))


@pytest.fixture
def mailjet() -> Any:
    with responses.RequestsMock() as mock:
        yield mock


def test_it_returns_mailjets_message_id_as_text(mailjet: Any) -> None:
    mailjet.post(URL, json=SUCCESS)
    assert send_email("ada@example.com", "Hello", "Dear Ada") == "456"


def test_it_sends_one_plain_text_message_with_basic_auth(mailjet: Any) -> None:
    message = {
        "From": {"Email": "demo@example.com"},
        "To": [{"Email": "ada@example.com"}],
        "Subject": "Hello",
        "TextPart": "Dear Ada",
    }
    mailjet.post(URL, json=SUCCESS, match=[responses.matchers.json_params_matcher({"Messages": [message]})])
    send_email("ada@example.com", "Hello", "Dear Ada")
    assert mailjet.calls[0].request.headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [
        (400, {"json": INVALID}, '"ada" is an invalid email address.'),
        (200, {"json": INVALID}, '"ada" is an invalid email address.'),
        (401, {"json": {"ErrorMessage": "API key authentication/authorization failure."}}, "API key authentication"),
        (429, {"json": {"ErrorMessage": "Too many requests"}}, "Too many requests"),
        (500, {"json": {"ErrorMessage": "Something went wrong"}}, "Something went wrong"),
        (502, {"body": "<html>Bad   gateway</html>"}, "<html>Bad gateway</html>"),
        (200, {"body": ""}, "an empty answer"),
        (200, {"json": []}, "[]"),
        (200, {"json": {"Messages": []}}, '{"Messages": []}'),
    ],
)
def test_an_error_says_what_mailjet_answered(mailjet: Any, status: int, answer: dict[str, Any], reason: str) -> None:
    mailjet.post(URL, status=status, **answer)
    with pytest.raises(MailjetError) as caught:
        send_email("ada", "Hello", "Dear Ada")
    assert caught.value.status == status
    assert f"(HTTP {status}): {reason}" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "mistake"),
    [
        (["To[0].Email"], "It is wrong."),
        (["Subject", "TextPart"], "It is wrong."),
        (["From.Email"], ""),
        (["To[0].Email", "From.Email"], ""),
        ([], ""),
        (None, ""),
        ("To", ""),
        ([7], ""),
    ],
)
def test_only_what_mailjet_says_of_the_writers_own_fields_is_the_writers_mistake(
    mailjet: Any, fields: object, mistake: str
) -> None:
    refused = {"ErrorMessage": "It is wrong.", "ErrorRelatedTo": fields}
    mailjet.post(URL, status=400, json={"Messages": [{"Status": "error", "Errors": [refused]}]})
    with pytest.raises(MailjetError, match=r"It is wrong\.$") as caught:
        send_email("ada", "Hello", "Dear Ada")
    assert caught.value.mistake == mistake


@pytest.mark.parametrize(("status", "requests_made"), [(429, 4), (500, 1), (400, 1)])
def test_only_an_answer_that_took_no_mail_is_asked_again(mailjet: Any, status: int, requests_made: int) -> None:
    mailjet.post(URL, status=status, json={})
    with pytest.raises(MailjetError):
        send_email("ada@example.com", "Hello", "Dear Ada")
    assert len(mailjet.calls) == requests_made


@pytest.mark.parametrize("trouble", [requests.ConnectionError("connection refused"), requests.ReadTimeout("timed out")])
def test_without_an_answer_the_error_says_that_mailjet_could_not_be_reached(mailjet: Any, trouble: Exception) -> None:
    mailjet.post(URL, body=trouble)
    with pytest.raises(MailjetError, match=f"could not be reached.*{trouble}") as caught:
        send_email("ada@example.com", "Hello", "Dear Ada")
    assert caught.value.status is None


def test_no_key_is_shown_even_if_the_answer_quotes_it(mailjet: Any) -> None:
    mailjet.post(URL, status=401, json={"ErrorMessage": f"unknown key {KEY}:{SECRET}"})
    with pytest.raises(MailjetError, match="unknown key") as caught:
        send_email("ada@example.com", "Hello", "Dear Ada")
    assert KEY not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("name", ["MAILJET_API_KEY", "MAILJET_API_SECRET_KEY", "MAILJET_SENDER"])
def test_a_missing_setting_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, " ")
    with pytest.raises(MailjetError, match=f"^{name} is not set"):
        send_email("ada@example.com", "Hello", "Dear Ada")


def test_the_error_survives_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(MailjetError("refused", 400, "no address")))
    assert (str(error), error.status, error.mistake) == ("refused", 400, "no address")
