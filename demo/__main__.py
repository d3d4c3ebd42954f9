"""`python -m demo --port 8123`: the whole demo on this computer. It is what `make demo` runs.

This process owns a local Fly (flyexecutor.local), the mailbox unless real Mailjet keys are set, and gunicorn. It waits
for gunicorn; Ctrl-C and SIGTERM end everything that it started, web processes first. Prints one line: the address.
"""

import argparse
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

import requests
from werkzeug.serving import make_server

from demo.mailbox import create_mailbox
from flyexecutor.local import LocalFly

HOST = "127.0.0.1"
READY_TIMEOUT = 30.0  # seconds until gunicorn serves
STOP_TIMEOUT = 10.0  # seconds that gunicorn has to finish its requests
MAILJET_SETTINGS = ("MAILJET_API_KEY", "MAILJET_API_SECRET_KEY", "MAILJET_SENDER", "MAILJET_API_URL")


class _Stop(Exception):  # not an error: somebody wants us to end
    """Raised in the main thread by SIGINT and SIGTERM."""


def main() -> int:
    """Run the demo until a signal ends it. The exit status: 0 if a signal did, 1 if anything else."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="The flyexecutor demo on this computer.")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--workers", type=int, default=2, help="web processes")
    parser.add_argument("--preload", action="store_true", help="make the app before gunicorn forks")
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line per request of the mailbox would bury the address
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        with ExitStack() as stack:
            return _run(stack, options)
    except _Stop:
        return 0


def _run(stack: ExitStack, options: argparse.Namespace) -> int:
    try:
        listener = stack.enter_context(socket.create_server((HOST, options.port), backlog=128))
    except OSError as exc:
        return _complain(f"Port {options.port} can't be used ({os.strerror(exc.errno or 0)}): choose another one.")
    mailbox_url, machine_secrets = _mail_settings(stack)
    local = LocalFly(secrets=machine_secrets, rate_limits=True)
    stack.callback(local.close)
    environ = _web_environ() | local.environ() | ({"MAILBOX_URL": mailbox_url} if mailbox_url else {})
    gunicorn = stack.enter_context(_gunicorn(listener, options, environ))
    url = f"http://{HOST}:{options.port}/"
    try:
        # The socket listens already, so this waits in its queue until a web process takes it: no polling.
        # If gunicorn dies first, the last copy of the socket is closed and so is this connection.
        with requests.Session() as session:
            session.trust_env = False  # the proxy of this computer can't reach it
            session.get(f"{url}healthz", timeout=READY_TIMEOUT).raise_for_status()
    except requests.RequestException:
        return _complain("The web processes did not start: see the messages above.")
    print(f"Demo: {url}", flush=True)  # noqa: T201  # the one line that this program is to print
    gunicorn.wait()
    return _complain(f"gunicorn ended by itself (exit status {gunicorn.returncode}).")


def _mail_settings(stack: ExitStack) -> tuple[str | None, dict[str, str]]:
    """The mailbox's address, if there is one, and what the machines must know to send."""
    if os.environ.get("MAILJET_API_KEY"):
        return None, {name: os.environ[name] for name in MAILJET_SETTINGS if name in os.environ}
    key, secret = secrets.token_hex(16), secrets.token_hex(16)
    url = stack.enter_context(_mailbox(key, secret))
    values = (key, secret, "demo@example.com", url)
    # NO_PROXY: macOS tells every program of a proxy in its settings, which can't reach the mailbox.
    return url, {**dict(zip(MAILJET_SETTINGS, values, strict=True)), "NO_PROXY": HOST}


def _web_environ() -> dict[str, str]:
    # The web processes never need Mailjet's keys: only machines send. And no proxy of Fly's is before them.
    environ = {name: value for name, value in os.environ.items() if name not in {*MAILJET_SETTINGS, "FLY_APP_NAME"}}
    environ.setdefault("SECRET_KEY", secrets.token_hex(32))
    return environ


@contextmanager
def _mailbox(key: str, secret: str) -> Iterator[str]:
    server = make_server(HOST, 0, create_mailbox(key, secret), threaded=True)
    thread = threading.Thread(target=server.serve_forever, name="mailbox", daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _gunicorn(
    listener: socket.socket, options: argparse.Namespace, environ: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "gunicorn", "demo.app:create_app()", "--bind", f"fd://{listener.fileno()}"]
    command += ["--workers", str(options.workers), "--threads", "8", "--worker-class", "demo.server.Worker"]
    command += ["--log-level", "warning", "--no-control-socket"]
    command += ["--preload"] if options.preload else []
    # A session of its own: a terminal's Ctrl-C reaches this process only, which then ends the others in order.
    process = subprocess.Popen(command, env=environ, pass_fds=[listener.fileno()], start_new_session=True)
    listener.close()
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT)
        # Who is left of its session: all of them after the time-out, its orphans if it was killed, normally nobody.
        with suppress(ProcessLookupError, PermissionError):  # EPERM: of macOS, where only zombies are left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _complain(sentence: str) -> int:
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201
    return 1


def _stop(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the ending
    raise _Stop


if __name__ == "__main__":
    sys.exit(main())
