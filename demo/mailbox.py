"""A mailbox that stands in for Mailjet on a laptop: it takes mail by Mailjet's own API and shows it on a page.

One process, mails in memory, newest first. It speaks enough of `POST /v3.1/send` for Mailjet's client not to notice:
basic auth, the shape of success, and Mailjet's errors for what that client can get wrong. It delivers nothing.
"""

import itertools
import secrets
import threading
import uuid
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from email_validator import EmailNotValidError, validate_email
from flask import Flask, render_template, request
from flask.typing import ResponseReturnValue

from demo.protection import THIS_COMPUTER, protect

MAX_KEPT = 10_000  # mails in memory
MAX_SHOWN = 200  # mails on the page
MAX_MESSAGES = 50  # of one request, as Mailjet has it
MAX_REQUEST_BYTES = 15 * 1024 * 1024  # as Mailjet has it
REFUSED = "refused@"  # mail to such an address is refused, so that a failure can be seen; Mailjet has no such thing


@dataclass(frozen=True, slots=True)
class Received:
    """One mail, as the page shows it."""

    id: int
    at: datetime
    sender: str
    to: tuple[str, ...]
    subject: str
    text: str


def create_mailbox(key: str, secret: str) -> Flask:
    """Make the mailbox as a WSGI app that knows one pair of API keys."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST_BYTES
    protect(app, [*THIS_COMPUTER])
    received: deque[Received] = deque(maxlen=MAX_KEPT)
    lock = threading.Lock()  # a page that is rendered while a mail comes in
    ids = itertools.count(576_460_752_303_423_488)  # Mailjet's ids are this long: nobody may take them for small

    @app.post("/v3.1/send")
    def send() -> ResponseReturnValue:
        if not _authorized(key, secret):
            return _error(
                "mj-0015",
                "API key authentication/authorization failure. You may be unauthorized to access the API or your API "
                "key may be inactive. Visit API keys management section to check your keys.",
                status=401,
            ), 401
        request_body = request.get_json(silent=True)
        messages = request_body.get("Messages") if isinstance(request_body, dict) else None
        if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
            return _error("mj-0002", "Malformed JSON, please review the syntax and properties types."), 400
        answers = [_refusal(message) or take(message) for message in messages]
        return {"Messages": answers}, 400 if any(answer["Status"] == "error" for answer in answers) else 200

    def take(message: dict[str, Any]) -> dict[str, Any]:
        to = tuple(recipient["Email"] for recipient in message["To"])
        with lock:
            mail = Received(
                id=next(ids),
                at=datetime.now(UTC),
                sender=message["From"]["Email"],
                to=to,
                subject=message.get("Subject", ""),
                text=message["TextPart"],
            )
            received.appendleft(mail)
        recipients = [
            {
                "Email": address,
                "MessageUUID": str(uuid.uuid4()),
                "MessageID": mail.id,
                "MessageHref": f"https://api.mailjet.com/v3/message/{mail.id}",
            }
            for address in to
        ]
        return {"Status": "success", "CustomID": "", "To": recipients, "Cc": [], "Bcc": []}

    @app.get("/mailbox")
    def page() -> ResponseReturnValue:
        with lock:
            shown, total = list(itertools.islice(received, MAX_SHOWN)), len(received)
        return render_template("mailbox.html", mails=shown, total=total)

    return app


def _authorized(key: str, secret: str) -> bool:
    given = request.authorization
    if given is None or given.type != "basic":
        return False
    pair = f"{given.username}:{given.password}".encode()
    return secrets.compare_digest(pair, f"{key}:{secret}".encode())


def _refusal(message: Any) -> dict[str, Any] | None:
    """Mailjet's answer to a message that it does not take, None if it does."""
    match message:
        case {"From": {"Email": str(sender)}, "To": [_, *_] as to}:
            pass
        case _:
            missing = [name for name in ("From", "To") if not (isinstance(message, dict) and message.get(name))]
            return _refuse("mj-0003", "Missing mandatory property.", missing or ["From.Email"])
    for where, address in [
        ("From.Email", sender),
        *((f"To[{n}].Email", _email(recipient)) for n, recipient in enumerate(to)),
    ]:
        if not _valid(address):
            return _refuse("mj-0013", f'"{address}" is an invalid email address.', [where])
    if not isinstance(message.get("Subject", ""), str) or len(message.get("Subject", "")) > 255:
        return _refuse("mj-0006", "Size must be less or equal to 255.", ["Subject"])
    if not isinstance(message.get("TextPart"), str) or not message["TextPart"]:
        return _refuse(
            "send-0003", 'At least "HTMLPart", "TextPart" or "TemplateID" must be provided.', ["TextPart", "HTMLPart"]
        )
    return None


def _email(recipient: Any) -> str:
    return str(recipient.get("Email", "")) if isinstance(recipient, dict) else ""


def _valid(address: str) -> bool:
    try:
        validate_email(address, check_deliverability=False, allow_smtputf8=False)
    except EmailNotValidError:
        return False
    return not address.lower().startswith(REFUSED)


def _refuse(code: str, reason: str, related_to: list[str]) -> dict[str, Any]:
    return {"Status": "error", "Errors": [_error(code, reason) | {"ErrorRelatedTo": related_to}]}


def _error(code: str, reason: str, status: int = 400) -> dict[str, Any]:
    return {"ErrorIdentifier": str(uuid.uuid4()), "ErrorCode": code, "StatusCode": status, "ErrorMessage": reason}
