"""What the commands share: the options that say where everything is, a client, and how things are shown."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, TypeVar

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table

from flyexecutor.client.client import Client
from flyexecutor.errors import SettingsError
from flyexecutor.fleet.config import owners_of
from flyexecutor.fleet.guests import Prices
from flyexecutor.fleet.stock import MachineInfo, Stock
from flyexecutor.lane import Lane
from flyexecutor.names import visible
from flyexecutor.settings import Settings, read_settings

F = TypeVar("F", bound=Callable[..., Any])

NO_IMAGE = "-"  # what needs no image does not ask for one
WIDE = 160  # columns where there is no terminal; from there on ids are whole
GAP = 2  # columns between two of a table
SHORT, SHORTEST = 20, 12  # columns that a text has at least, and below which a second one is left out
LEAST_DIGITS, MOST_DIGITS = 12, 24  # of an id that is shortened: calls of the same second have the first 8 in common
_NO_LANE = Lane("", config={}, regions=(), max_workers=0, concurrency=1, boot_timeout=120.0)
_RESULT_TTL = 86400.0  # no call is submitted


@dataclass(frozen=True, slots=True)
class Where:
    """What --app and --redis-url say; None: the environment does."""

    app: str | None
    redis_url: str | None

    def settings(self, *, image: bool) -> Settings:
        """These and the environment. image: whether it is needed. Raises SettingsError."""
        usual = None if image or os.environ.get("WORKER_IMAGE") or os.environ.get("FLY_IMAGE_REF") else NO_IMAGE
        try:
            return read_settings(app=self.app, redis_url=self.redis_url, image=usual)
        except SettingsError as exc:
            # It speaks of Python's arguments; a shell has variables.
            text = re.sub(r"argument \w+= or environment variable ", "", str(exc))
            raise SettingsError(text.replace("use local=True", "see flyexecutor local")) from None


def where_options(command: F) -> F:
    """The options --app and --redis-url of a command."""
    command = click.option("--redis-url", metavar="URL", help="Address of Redis. [default: REDIS_URL]")(command)
    return click.option("--app", metavar="NAME", help="The app that holds the machines. [default: FLY_TASKS_APP]")(
        command
    )


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")


@contextlib.contextmanager
def open_client(where: Where, *, token: bool) -> Iterator[Client]:
    """A client that has started nothing.

    token: False for who attaches to calls: then it has no fleet, which would start machines up to a limit that the
    owner of these calls may not have set.
    """
    settings = where.settings(image=False)
    trust = settings.make_trust()
    client = Client(settings if token else replace(settings, token=""), _NO_LANE, trust, result_ttl=_RESULT_TTL)
    try:
        yield client
    finally:
        client.close()


def stock_of(client: Client, where: Where) -> Stock:
    """The machines of the client's app."""
    return Stock(client.store, client.machines, client.lists, Prices(), owners_of(where.settings(image=False)))


def console() -> Console:
    """Standard output; nothing that is shown is markup, since much of it is other people's text."""
    terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(markup=False, highlight=False, emoji=False, width=None if terminal else WIDE)


def table(title: str, *columns: str, right: str = "") -> Table:
    """An empty table without frames. right: the columns that hold numbers, in words."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right.split() else "left", no_wrap=True)
    return made


def table_of_machines(width: int, title: str, machines: Sequence[MachineInfo], *, keepers: bool) -> Table:
    """A line for each; of the columns the first that have room. keepers: whether it says which are."""
    columns = {
        "id": [plain(machine.id) for machine in machines],
        "state": [plain(machine.state) for machine in machines],
        "region": [plain(machine.region) for machine in machines],
        "guest": [plain(machine.guest) for machine in machines],
        **({"keeper": ["yes" if machine.keeper else "no" for machine in machines]} if keepers else {}),
        "billed": [seconds(machine.billed_seconds) for machine in machines],
        "dollars": [dollars(machine.dollars) for machine in machines],
    }
    ends = accumulate(max(map(cell_len, (name, *cells))) + GAP for name, cells in columns.items())
    names = [name for name, end in zip(columns, ends, strict=True) if end - GAP <= width]
    made = table(title, *names, right="billed dollars")
    for row in zip(*(columns[name] for name in names), strict=True):
        made.add_row(*row)
    return made


def table_within(
    width: int, title: str, columns: Mapping[str, Sequence[str]], *, texts: tuple[str, str], right: str = ""
) -> Table:
    """A table of so many columns of a terminal at most, by the names of its own.

    texts: those that are cut off where they are too long; the second is left out if it is empty or has no room.
    """
    first, second = texts
    longest = {name: max(map(cell_len, (name, *cells))) for name, cells in columns.items()}
    room = width - sum(longest[name] + GAP for name in columns if name not in texts)
    left = min(longest[first], max(SHORT, room // 2))
    if room - left - GAP < SHORTEST or not any(columns.get(second, ())):
        columns = {name: cells for name, cells in columns.items() if name != second}
        left = room
    widths = {first: left, second: room - left - GAP}
    made = table(title, *columns, right=right)
    for row in zip(*columns.values(), strict=True):
        cells = zip(columns, row, strict=True)
        made.add_row(*(_cut(cell, widths[name]) if name in widths else cell for name, cell in cells))
    return made


def _cut(text: str, room: int) -> str:
    return text if cell_len(text) <= room else f"{set_cell_size(text, room - 1)}…"


def say_json(document: Any) -> None:
    """One JSON object."""
    click.echo(json.dumps(document, indent=2))


def digits_of(ids: Iterable[str]) -> int:
    """How many digits of each of these ids tell it from the others."""
    known = set(ids)
    enough = (n for n in range(LEAST_DIGITS, MOST_DIGITS) if len({known_id[:n] for known_id in known}) == len(known))
    return next(enough, MOST_DIGITS)


def plain(text: str) -> str:
    """Text that came from elsewhere, on a line."""
    return visible(text, lines=False)


def seconds(number: float | None) -> str:
    """`0.4 s`, `12 s`, `3m05s`, `2h07m`, `3d04h`."""
    if number is None:
        return ""
    if number < 9.95:
        return f"{number:.1f} s"
    whole = round(number)
    for unit, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02}{below}"
    return f"{whole} s"


def dollars(number: float | None) -> str:
    """`$0.0012`, `$3.20`; empty if it is not known."""
    if number is None:
        return ""
    return f"${number:.2f}" if number >= 1 else f"${number:.4f}"
