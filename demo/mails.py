"""What a visitor has sent: remembered in the visitor's own cookie, and looked up by call id in any web process.

Owns the session's `mails` list and a bounded cache of futures. The signed cookie is the only record of who sent
what, so that nobody sees a stranger's mail, the demo needs no database, and a killed web process forgets nothing.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import CancelledError
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from flask import current_app, session
from flask.sessions import SecureCookieSessionInterface

from flyexecutor import CallForgottenError, ExpiredCallError, FlyExecutorError, State, UnknownCallError
from worker.tasks import MailjetError

if TYPE_CHECKING:
    from flyexecutor import FlyFuture, FlyMachineExecutor

MAX_REMEMBERED = 20  # mails of one visitor
MAX_COOKIE = 3_500  # bytes; browsers drop cookies over 4,096 with name and attributes
MAX_HANDLES = 2_000  # futures per web process
MAX_TO, MAX_SUBJECT = 60, 50  # characters shown in the list
UNKNOWN_NOTE = "Its state can't be told right now."
OUTCOME_TIMEOUT = 2.0  # seconds between "the call has ended" and its outcome being here


class Status(StrEnum):
    """Where a mail stands, in the words of the page."""

    PENDING = "PENDING"
    SENDING = "SENDING"
    SENT = "SENT"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"

    @property
    def final(self) -> bool:
        """Whether it will stay so."""
        return self in {Status.SENT, Status.FAILED, Status.EXPIRED}


@dataclass(frozen=True, slots=True)
class Sent:
    """One mail as the cookie remembers it."""

    id: str
    to: str
    subject: str


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail as the page shows it. `note` is a sentence for the visitor, or empty."""

    id: str
    to: str
    subject: str
    status: Status
    note: str = ""


class Handles:
    """The futures of recent mails. While one is kept, looking costs no attaching, and nothing at all once it ended."""

    def __init__(self, executor: "FlyMachineExecutor", log: logging.Logger) -> None:
        self._executor = executor
        self._log = log
        self._futures: OrderedDict[str, FlyFuture[str]] = OrderedDict()
        self._lock = threading.Lock()  # the web process serves with several threads

    def keep(self, future: "FlyFuture[str]") -> None:
        """Keep a future for the polls to come; the one unused for longest makes room."""
        with self._lock:
            new = self._futures.get(future.id) is not future
            self._futures[future.id] = future
            self._futures.move_to_end(future.id)
            while len(self._futures) > MAX_HANDLES:
                self._futures.popitem(last=False)
        if new:
            future.add_done_callback(lambda _: self._log_failure(future))

    def look(self, mails: Iterable[Sent]) -> list[Mail]:
        """Say where each mail stands. Never raises: what can't be told is UNKNOWN."""
        looked: list[Mail] = []
        away = False
        for sent in mails:
            future = self._futures.get(sent.id)
            if away and not (future and future.done()):
                # One time-out is enough: twenty in a row would keep the visitor waiting for a minute.
                status, note = Status.UNKNOWN, UNKNOWN_NOTE
            else:
                try:
                    future = future or self._executor.future(sent.id)
                    self.keep(future)
                    status, note = _stands(future)
                except (ExpiredCallError, UnknownCallError, CallForgottenError):
                    status, note = Status.EXPIRED, "What became of it is no longer known."
                except (FlyExecutorError, TimeoutError) as exc:
                    self._log.warning("no state for call %s: %s", sent.id, exc)
                    away = True
                    status, note = Status.UNKNOWN, UNKNOWN_NOTE
            looked.append(Mail(**asdict(sent), status=status, note=note))
        return looked

    def _log_failure(self, future: "FlyFuture[str]") -> None:
        if not future.cancelled() and (error := future.exception()):
            self._log.warning("call %s failed: %s", future.id, error)


def _stands(future: "FlyFuture[str]") -> tuple[Status, str]:
    match future.state():
        case State.QUEUED:
            return Status.PENDING, ""
        case State.RUNNING:
            return Status.SENDING, ""
        case State.SUCCEEDED:
            return Status.SENT, ""
        case State.CANCELLED:
            return Status.FAILED, "It was cancelled before it started."
    try:
        reason = future.exception(timeout=OUTCOME_TIMEOUT)
    except CancelledError:
        reason = None
    if isinstance(reason, MailjetError) and reason.mistake:
        return Status.FAILED, f"Mailjet does not take it: {reason.mistake}"
    # Addresses and remedies are the operator's, whom the log tells.
    return Status.FAILED, f"It could not be sent. {number_of(future.id)}"


def number_of(reference: str) -> str:
    """What a visitor is told, so that the operator finds in the log what went wrong."""
    return f"Should you ask about it, its number is {reference[:12]}."


def remembered() -> list[Sent]:
    """The visitor's mails, newest first."""
    entries: list[dict[str, Any]] = session.get("mails", [])
    return [Sent(**entry) for entry in entries]


def remember(call_id: str, to: str, subject: str) -> None:
    """Put a mail at the head of the visitor's list; the oldest leave when the cookie is full."""
    mails = [Sent(call_id, _shorten(to, MAX_TO), _shorten(subject, MAX_SUBJECT)), *remembered()][:MAX_REMEMBERED]
    session["mails"] = [asdict(mail) for mail in mails]
    while _cookie_size() > MAX_COOKIE and len(session["mails"]) > 1:
        session["mails"] = session["mails"][:-1]


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _cookie_size() -> int:
    interface = current_app.session_interface
    assert isinstance(interface, SecureCookieSessionInterface)
    serializer = interface.get_signing_serializer(current_app)
    assert serializer is not None, "create_app insists on a SECRET_KEY"
    return len(serializer.dumps(dict(session)))
