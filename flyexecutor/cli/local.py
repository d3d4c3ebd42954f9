"""`flyexecutor local`, Fly and Redis on this computer, until Ctrl-C."""

import fcntl
import os
import shlex
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

from flyexecutor.local import LocalError, LocalFly

TOKEN, PASSWORD = "FLYEXECUTOR_LOCAL_TOKEN", "FLYEXECUTOR_LOCAL_PASSWORD"
PORT = click.IntRange(0, 65535)
OURS = "# Written by flyexecutor local, and removed when it ends.\n"  # first line of an environment file


@click.command()
@click.option(
    "--app", default="local", metavar="NAME", show_default=True, help="Name of the app that holds the machines."
)
@click.option(
    "--port", default=0, type=PORT, metavar="PORT", help="Port of the Machines API on 127.0.0.1. [default: a free one]"
)
@click.option(
    "--redis-port", default=0, type=PORT, metavar="PORT", help="Port of Redis on 127.0.0.1. [default: a free one]"
)
@click.option("--rate-limits/--no-rate-limits", default=True, show_default=True, help="Fly's documented rate limits.")
@click.option("--name", metavar="NAME", help='The local Fly of FlyMachineExecutor(local="NAME"), started or joined.')
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the data, the address and the token.")
@click.option(
    "--env-file", type=click.Path(path_type=Path), help="Write the environment variables there, not to the terminal."
)
def local(
    app: str, port: int, redis_port: int, rate_limits: bool, name: str | None, keep: Path | None, env_file: Path | None
) -> None:
    """Run a Machines API and a Redis on this computer, until Ctrl-C.

    Prints the environment variables with which an executor in another terminal uses them. Machines are processes of
    this computer; they find the modules of the folder in which this command runs.

    The API's token and Redis' password are random unless FLYEXECUTOR_LOCAL_TOKEN and FLYEXECUTOR_LOCAL_PASSWORD are
    set. An environment file is for `set -a; . FILE; set +a` and for dotenv; only you can read it.
    """
    ended, stopped = threading.Event(), threading.Event()

    def stop(*_: object) -> None:
        stopped.set()
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    if env_file:
        _check(env_file)
    try:
        fly = LocalFly(
            name=name,
            keep=keep,
            app=app,
            port=port,
            redis_port=redis_port,
            rate_limits=rate_limits,
            token=os.environ.get(TOKEN) or None,
            password=os.environ.get(PASSWORD) or None,
        )
    except LocalError as exc:
        raise click.ClickException(str(exc)) from None

    def follow() -> None:
        fly.wait()
        ended.set()

    threading.Thread(target=follow, daemon=True).start()
    with fly, _env_file(env_file, fly.environ()) if env_file else _printed(fly.environ()):
        end = "leaves it to others" if name else "ends both"
        click.echo(f"# Machines API {fly.api_url}, Redis from {fly.redis_server}. Ctrl-C {end}.", err=True)
        ended.wait()
    if not stopped.is_set():
        raise click.ClickException("it has ended by itself, or was killed: see above")


@contextmanager
def _printed(environ: Mapping[str, str]) -> Iterator[None]:
    click.echo("".join(f"export {name}={shlex.quote(value)}\n" for name, value in environ.items()), nl=False)
    yield


def _check(path: Path) -> None:
    """Raises ClickException for a file that somebody else has written, or that one of ours needs which still runs."""
    try:
        if not path.exists():
            return
        with path.open() as file:
            if not file.read().startswith(OURS):
                raise click.ClickException(f"{path} was not written by flyexecutor local: give another file")
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise click.ClickException(
            f"{path} is that of another flyexecutor local, which still runs: give another file"
        ) from None
    except (OSError, ValueError) as exc:
        raise click.ClickException(f"{path} can't be read: {exc}") from None


@contextmanager
def _env_file(path: Path, environ: Mapping[str, str]) -> Iterator[None]:
    text = OURS + "".join(f"{name}={shlex.quote(value)}\n" for name, value in environ.items())
    with ExitStack() as held:
        try:
            # Whole or not at all, and nobody else's for a moment.
            descriptor, written = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            file = held.enter_context(open(descriptor, "w"))
            file.write(text)
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)  # as long as this process lives, however it ends
            os.replace(written, path)
        except OSError as exc:
            raise click.ClickException(f"{path} can't be written: {exc.strerror}") from None
        try:
            yield
        finally:
            with suppress(OSError):
                if path.read_text() == text:  # else it is that of somebody who has replaced it meanwhile
                    path.unlink()
