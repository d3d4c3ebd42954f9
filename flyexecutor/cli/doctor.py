"""`doctor` shows what `checks` finds, line by line as it is found."""

from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flyexecutor.cli.checks import Check, examine
from flyexecutor.cli.common import Where, console, json_option, say_json, where_options
from flyexecutor.names import visible

NAMES = 13  # columns that the longest name has


@click.command()
@click.option("--no-call", is_flag=True, help="Send no call: start no machine.")
@click.option(
    "--boot-timeout",
    default=120.0,
    show_default=True,
    type=click.FloatRange(1),
    metavar="SECONDS",
    help="For the call's machine.",
)
@json_option
@where_options
def doctor(no_call: bool, boot_timeout: float, as_json: bool, app: str | None, redis_url: str | None) -> None:
    """Find out what is wrong, with a real call.

    Looks at the settings, Redis and Fly, then sends one call there and back. It runs on a machine of its own, which
    destroys itself afterwards. Exit code 1 if a check failed. In the JSON object "ok" is null for what could not be
    looked at, and what is ok with a "remedy" is a warning.
    """
    made = []
    out = console()
    for check in examine(Where(app, redis_url), call=not no_call, boot_timeout=boot_timeout):
        made.append(check)
        if not as_json:
            _show(check, out)
    failed = sum(check.ok is False for check in made)
    if as_json:
        say_json({"checks": [asdict(check) for check in made]})
    else:
        out.print(f"\n{failed} of {len(made)} checks failed." if failed else "\nNo check failed.")
    if failed:
        raise SystemExit(1)


def _show(check: Check, out: Console) -> None:
    if check.ok is None:
        mark = Text("-", style="dim")
    elif not check.ok:
        mark = Text("failed", style="bold red")
    elif check.remedy:
        mark = Text("warning", style="yellow")
    else:
        mark = Text("ok", style="green")
    # A table for each: what is long is broken within its column, and nothing waits for the last check.
    line = Table.grid(padding=(0, 2))
    line.add_column(width=len("warning"))
    line.add_column(width=NAMES)
    line.add_column(overflow="fold")
    line.add_row(mark, check.name, visible(check.detail))
    if check.remedy:
        line.add_row("", "", Text(f"-> {visible(check.remedy)}", style="yellow" if check.ok else "bold"))
    out.print(line)
