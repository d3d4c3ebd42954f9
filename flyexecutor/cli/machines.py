"""`reap` and `prepare`, the stock of machines of an app. They send no call."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import cast

import click

from flyexecutor.cli.common import (
    Where,
    console,
    json_option,
    open_client,
    say_json,
    seconds,
    stock_of,
    table_of_machines,
    where_options,
)
from flyexecutor.executor import FlyMachineExecutor
from flyexecutor.fleet.guests import GuestName
from flyexecutor.fleet.stock import ORPHAN_AFTER


@click.command()
@click.option(
    "--older-than",
    default=ORPHAN_AFTER,
    show_default=True,
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Without a call in their lane for so long.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be destroyed, and destroy nothing.")
@json_option
@where_options
def reap(older_than: float, dry_run: bool, as_json: bool, app: str | None, redis_url: str | None) -> None:
    """Destroy machines that nobody will use.

    Those that rest and whose lane had no call for a time, and those that run without a worker; never one that is not
    ours.
    """
    where = Where(app, redis_url)
    with open_client(where, token=True) as client:
        reaped = stock_of(client, where).reap(older_than, dry_run=dry_run)
    if as_json:
        say_json({"dry_run": dry_run, "machines": [asdict(machine) for machine in reaped]})
    elif reaped:
        title = "Would be destroyed" if dry_run else "Destroyed"
        out = console()
        out.print(table_of_machines(out.width, title, reaped, keepers=False))
    else:
        click.echo("No machine to destroy.")


@click.command()
@click.argument("number", metavar="N", type=click.IntRange(1))
@click.option(
    "--timeout",
    default=600.0,
    show_default=True,
    type=click.FloatRange(1),
    metavar="SECONDS",
    help="Until all of them rest.",
)
@click.option("--guest", metavar="NAME", help="Size of a machine by Fly's name, as shared-cpu-2x. [default: Fly's]")
@click.option("--region", "regions", multiple=True, metavar="NAME", help="May be repeated: tried in this order.")
@click.option("--concurrency", default=1, show_default=True, type=click.IntRange(1), help="Calls at a time in one.")
@click.option("--idle-timeout", type=click.FloatRange(0), metavar="SECONDS", help="As given to the executor.")
@click.option("--env", "env", multiple=True, metavar="NAME=VALUE", help="As given to the executor; may be repeated.")
@json_option
@where_options
def prepare(
    number: int,
    timeout: float,
    guest: str | None,
    regions: Sequence[str],
    concurrency: int,
    idle_timeout: float | None,
    env: Sequence[str],
    as_json: bool,
    app: str | None,
    redis_url: str | None,
) -> None:
    """Have N machines ready, which rest until calls come.

    They serve the executors that have the same settings: give here what is given to those.
    """
    if wrong := [variable for variable in env if "=" not in variable]:
        raise click.BadParameter(f"{wrong[0]!r} is not NAME=VALUE", param_hint="--env")
    Where(app, redis_url).settings(image=True)  # if something is missing it says so in the words of a shell
    since = time.monotonic()
    with FlyMachineExecutor(
        app,
        redis_url=redis_url,
        guest=cast(GuestName | None, guest),  # another name is refused when it is read
        regions=list(regions) or None,
        max_workers=number,
        concurrency=concurrency,
        idle_timeout=idle_timeout,
        env=dict(variable.split("=", 1) for variable in env),
    ) as executor:
        executor.prepare(number, timeout)
    took = time.monotonic() - since
    if as_json:
        say_json({"ready": number, "seconds": round(took, 3)})
    else:
        click.echo(f"{number} {'machine is' if number == 1 else 'machines are'} ready, after {seconds(took)}.")
