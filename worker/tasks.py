"""The functions that the demo submits. They run inside a machine; the web process only refers to them by name.

Each reads its own settings from the machine's environment, where Fly puts the app's secrets, and none ever
shows a key: not in an exception, which travels to the client, and not in a log line.
"""

import os
from collections.abc import Mapping
from typing import Any

from mailjet_rest import Client
from mailjet_rest.errors import ApiError
from requests import Response
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

TIMEOUT = (5.0, 20.0)  # seconds to connect and to read; the client's own 60 would hold a machine for a minute
# Repeated only where the mail was surely not taken: no connection, or HTTP 429. The client's own policy also repeats a
# POST after a 5xx or half an answer, which can send the mail twice, and in the end hides what Mailjet answered.
RETRIES = Retry(
    total=3,
    read=False,
    status_forcelist=(429,),
    allowed_methods={"POST"},
    backoff_factor=1.0,
    raise_on_status=False,
)
WRITERS_FIELDS = ("To", "Subject", "TextPart")
MAX_SHOWN = 300  # characters of an answer that an error quotes: it may be a proxy's whole page


class MailjetError(RuntimeError):
    """Mailjet did not take the mail. `status` is its HTTP status, None when there was no answer at all.

    `mistake` is what Mailjet says of recipient, subject or text: for whoever wrote them. The rest is for the operator.
    """

    def __init__(self, message: str, status: int | None = None, mistake: str = "") -> None:
        super().__init__(message, status, mistake)  # all arguments in `args`: that is what a pickle carries
        self.status = status
        self.mistake = mistake

    def __str__(self) -> str:
        return str(self.args[0])


def send_email(to: str, subject: str, body: str) -> str:
    """Send one plain text mail through Mailjet and return Mailjet's message id.

    Reads MAILJET_API_KEY, MAILJET_API_SECRET_KEY and MAILJET_SENDER, and MAILJET_API_URL for a stand-in.
    """
    key, secret = _setting("MAILJET_API_KEY"), _setting("MAILJET_API_SECRET_KEY")
    message = {
        "From": {"Email": _setting("MAILJET_SENDER")},
        "To": [{"Email": to}],
        "Subject": subject,
        "TextPart": body,
    }
    api_url = os.environ.get("MAILJET_API_URL") or "https://api.mailjet.com/"
    answer: Response | None
    try:
        with Client(auth=(key, secret), version="v3.1", api_url=api_url, timeout=TIMEOUT) as mailjet:
            adapter = mailjet.session.get_adapter(api_url)
            assert isinstance(adapter, HTTPAdapter)
            adapter.max_retries = RETRIES
            answer = mailjet.send.create(data={"Messages": [message]})
    except ApiError as exc:
        # The client's message may quote the whole answer, and an answer may quote what was sent: ours is made from
        # the answer's error fields, and the client's exception is not chained to it.
        answer = getattr(exc.__cause__, "response", None)
        if answer is None:
            raise MailjetError(_without((key, secret), f"Mailjet could not be reached: {exc}")) from None
    match _json(answer):
        case {"Messages": [{"Status": "success", "To": [{"MessageID": message_id}, *_]}, *_]}:
            return str(message_id)
    # Also reached with status 200: Mailjet reports a refused message inside an accepted request.
    reason = _without((key, secret), _reason(answer))[:MAX_SHOWN]
    refused = f"Mailjet refused the mail (HTTP {answer.status_code}): {reason}"
    raise MailjetError(refused, answer.status_code, reason if _is_of_the_writers(answer) else "")


def _setting(name: str) -> str:
    if value := os.environ.get(name, "").strip():
        return value
    raise MailjetError(f"{name} is not set in this machine: set it with `fly secrets set {name}=...` on the tasks app")


def _reason(answer: Response) -> str:
    match _json(answer):
        case {"Messages": [{"Errors": [{"ErrorMessage": str(reason)}, *_]}, *_]} | {"ErrorMessage": str(reason)}:
            return reason
    return " ".join(answer.text.split()) or "an empty answer"


def _is_of_the_writers(answer: Response) -> bool:
    match _json(answer):
        case {"Messages": [{"Errors": [{"ErrorRelatedTo": [_, *_] as fields}, *_]}, *_]}:
            return all(str(field).startswith(WRITERS_FIELDS) for field in fields)
    return False


def _json(response: Response) -> Mapping[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _without(secrets: tuple[str, ...], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "[hidden]")
    return text
