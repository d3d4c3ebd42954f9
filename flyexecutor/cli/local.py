"""Level 8: `flyexecutor local`, Fly and Redis on this computer, until Ctrl-C."""

import shlex
import signal
import threading

import click

from flyexecutor.local import LocalError, LocalFly


@click.command()
@click.option("--app", default="local", show_default=True, help="Name of the app that holds the machines.")
@click.option("--port", default=0, help="Port of the Machines API on 127.0.0.1. [default: a free one]")
@click.option("--redis-port", default=0, help="Port of Redis on 127.0.0.1. [default: a free one]")
@click.option("--rate-limits/--no-rate-limits", default=True, show_default=True, help="Fly's documented rate limits.")
def local(app: str, port: int, redis_port: int, rate_limits: bool) -> None:
    """Run a Machines API and a Redis on this computer, until Ctrl-C.

    Prints the environment variables with which an executor in another terminal uses them. Machines are processes of
    this computer; they find the modules of the folder in which this command runs.
    """
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        fly = LocalFly(app=app, port=port, redis_port=redis_port, rate_limits=rate_limits, show_output=True)
    except LocalError as exc:
        raise click.ClickException(str(exc)) from None
    with fly:
        click.echo(f"# Machines API {fly.api_url}, Redis from {fly.redis_server}. Ctrl-C ends both.", err=True)
        for name, value in fly.environ().items():
            click.echo(f"export {name}={shlex.quote(value)}")
        ended.wait()
