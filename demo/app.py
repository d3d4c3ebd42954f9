"""The demo's web app: a form, and a list that shows where each mail of this visitor stands.

`create_app()` is what gunicorn calls, in each process or, with --preload, once before it forks: the executor makes
its threads and connections when a process first uses it. A request never sends mail and never waits until one is sent.
It waits at most FLUSH_TIMEOUT until its call is stored and a machine is asked for, because "queued" is a promise.
"""

import math
import os
import secrets
from typing import TYPE_CHECKING

import requests
from flask import Flask, Response, abort, redirect, render_template, request, url_for
from flask.sessions import SecureCookieSessionInterface
from flask.typing import ResponseReturnValue
from redis import RedisError
from werkzeug.exceptions import HTTPException, SecurityError
from werkzeug.middleware.proxy_fix import ProxyFix

from demo.forms import MailForm
from demo.mails import Handles, Mail, number_of, remember, remembered
from demo.protection import on_fly, page_hosts, protect
from demo.visitors import Quota
from flyexecutor import FlyExecutorError, FlyMachineExecutor, MachineStartError
from worker.tasks import send_email

if TYPE_CHECKING:
    from flyexecutor import FlyFuture

FLUSH_TIMEOUT = 3.0  # seconds
MAILBOX_TIMEOUT = 5.0  # seconds
HEALTH = "/healthz"
NOT_SENT = "The queue can't be reached, so nothing was sent. Your mail is still here: please try again soon."
MAX_REQUEST_BYTES = 256 * 1024  # room for the longest message percent-encoded, and for seeing that it is longer


class _SessionInterface(SecureCookieSessionInterface):
    """Marks the cookie Secure exactly when the request came by https: a laptop has none."""

    def get_cookie_secure(self, app: Flask) -> bool:  # noqa: ARG002  # Flask passes it
        return request.is_secure


def create_app(
    executor: FlyMachineExecutor | None = None,
    *,
    secret_key: str | None = None,
    redis_url: str | None = None,
    mailbox_url: str | None = None,
) -> Flask:
    """Make the app. What is not given comes from the environment: SECRET_KEY, MAILBOX_URL, the executor's settings.

    SECRET_KEY_FALLBACKS are keys of before, with commas in between: cookies that they have signed are still good.
    """
    app = Flask(__name__)
    app.secret_key = secret_key or os.environ.get("SECRET_KEY") or os.environ.get("FLASK_SECRET_KEY")
    if not app.secret_key:
        raise RuntimeError(
            "SECRET_KEY is not set: it signs the visitors' cookies and must be the same in every web process "
            "(make one with `python -c 'import secrets; print(secrets.token_hex())'`)"
        )
    fallbacks = os.environ.get("SECRET_KEY_FALLBACKS", "").split(",")
    app.config.update(
        SECRET_KEY_FALLBACKS=[key.strip() for key in fallbacks if key.strip()],
        MAX_CONTENT_LENGTH=MAX_REQUEST_BYTES,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        # A poll must not send the cookie back: it could arrive after that of a form sent meanwhile, and undo it.
        SESSION_REFRESH_EACH_REQUEST=False,
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session: a page left open for an hour still sends
    )
    app.session_interface = _SessionInterface()
    protect(app, page_hosts())
    if on_fly():
        # Only behind Fly's proxy: anywhere else the visitor could write this header.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=0, x_proto=1)  # type: ignore[method-assign]
    mailbox_url = mailbox_url or os.environ.get("MAILBOX_URL")
    executor = executor or FlyMachineExecutor()  # says which settings are missing
    quota = Quota(redis_url or os.environ["REDIS_URL"])
    _add_routes(app, executor, quota, mailbox_url.rstrip("/") if mailbox_url else None)
    return app


def _add_routes(app: Flask, executor: FlyMachineExecutor, quota: Quota, mailbox_url: str | None) -> None:
    handles = Handles(executor, app.logger)

    def visitors_mails() -> list[Mail]:
        return handles.look(remembered())

    def page(form: MailForm, status: int = 200, trouble: str = "") -> tuple[str, int]:
        mails = visitors_mails()
        unfinished = any(not mail.status.final for mail in mails)
        return render_template(
            "index.html", form=form, mails=mails, unfinished=unfinished, trouble=trouble, mailbox=bool(mailbox_url)
        ), status

    @app.get("/")
    def index() -> ResponseReturnValue:
        return page(MailForm(formdata=None))

    @app.post("/")
    def send() -> ResponseReturnValue:
        form = MailForm()
        if not form.validate():
            if form.csrf_token.errors:
                # Also what someone sees who has blocked cookies, or whose browser was closed in between.
                return page(form, 400, "This page was out of date, so nothing was sent. Please press Send again.")
            return page(form, 422)
        try:
            wait = quota.take()
        except RedisError as exc:
            reference = secrets.token_hex()
            app.logger.warning("could not count mail %s: %s", reference, exc)
            return page(form, 503, f"{NOT_SENT} {number_of(reference)}")
        if wait:
            trouble = (
                "Your address has sent as many mails as one may in an hour, so nothing was sent. "
                f"Your mail is still here: please try again in {math.ceil(wait / 60)} minutes."
            )
            return (*page(form, 429, trouble), {"Retry-After": str(wait)})
        future = executor.submit(send_email, form.address, form.subject.data, form.body.data)
        try:
            executor.flush(timeout=FLUSH_TIMEOUT)
        except MachineStartError as exc:
            # It is queued, and that is what the list will say; it goes out as soon as a machine can be had.
            app.logger.warning("call %s waits for a machine: %s", future.id, exc)
        except (FlyExecutorError, TimeoutError) as exc:
            app.logger.warning("could not queue call %s: %s", future.id, exc)
            return page(form, 503, take_back(future, form))
        handles.keep(future)
        remember(future.id, form.to.data, form.subject.data)
        return redirect(url_for("index", _anchor="mails"), 303)

    def take_back(future: "FlyFuture[str]", form: MailForm) -> str:
        # Still in this process, it would go out as soon as Redis is back, after the visitor was told to try again.
        if future.cancel():
            return f"{NOT_SENT} {number_of(future.id)}"
        handles.keep(future)
        remember(future.id, form.to.data, form.subject.data)
        return (
            "The queue did not answer in time. The mail may still go out: look at the list before you try again. "
            + number_of(future.id)
        )

    @app.get("/mails.json")
    def mails() -> ResponseReturnValue:
        found = visitors_mails()
        return {
            "unfinished": any(not mail.status.final for mail in found),
            "mails": [
                {"id": mail.id, "to": mail.to, "subject": mail.subject, "status": mail.status, "note": mail.note}
                for mail in found
            ],
        }

    @app.get("/mailbox")
    def mailbox() -> ResponseReturnValue:
        # The mailbox is a process of its own, so that it outlives web processes; its page is passed on as it is.
        if mailbox_url is None:
            abort(404)
        try:
            answer = requests.get(f"{mailbox_url}/mailbox", timeout=MAILBOX_TIMEOUT)
        except requests.RequestException as exc:
            app.logger.warning("no answer from the mailbox: %s", exc)
            return "The mailbox is not running.", 503
        return Response(answer.content, answer.status_code, content_type=answer.headers["Content-Type"])

    @app.get(HEALTH)
    def healthz() -> ResponseReturnValue:
        return Response("ok\n", content_type="text/plain")

    @app.errorhandler(SecurityError)
    def refuse(_: SecurityError) -> ResponseReturnValue:
        # Fly's own check names the machine by its address, which is none of the page's names.
        if request.path == HEALTH:
            return healthz()
        return Response("This page has another name.\n", 400, content_type="text/plain")

    @app.errorhandler(Exception)
    def fail(error: Exception) -> ResponseReturnValue:
        if isinstance(error, HTTPException):
            return error
        reference = secrets.token_hex()
        app.logger.error("error %s at %s %r", reference, request.method, request.path, exc_info=error)
        text = f"Something went wrong here. Look at your mails before you send one again. {number_of(reference)}\n"
        return Response(text, 500, content_type="text/plain")
