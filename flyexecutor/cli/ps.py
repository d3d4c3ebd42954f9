"""`ps`, the machines of an app and its calls that have not ended; with --watch again and again.

Reads; two requests of the Machines API and Redis for each look. Fly allows one list a second per app.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flyexecutor import damage
from flyexecutor.cli.common import (
    WIDE,
    Where,
    console,
    digits_of,
    dollars,
    json_option,
    open_client,
    plain,
    say_json,
    seconds,
    stock_of,
    table_of_machines,
    table_within,
    where_options,
)
from flyexecutor.client.future import Progress
from flyexecutor.errors import FlyExecutorError, PayloadError
from flyexecutor.fleet.stock import MachineInfo
from flyexecutor.store.listing import CallRecord, Overview

EVERY = 2.0  # seconds between two looks
MOST = 1000  # calls that are read
LEAST_ROWS = 4  # of machines and of calls, however low the terminal is
MEDIUM, NARROW = 100, 60  # columns below which less is told
SUMMARY = 100  # columns of the last sentence, about


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is at one moment."""

    machines: list[MachineInfo]
    redis: Overview


@click.command()
@click.option("--watch", "-w", is_flag=True, help="Look again every 2 seconds, until Ctrl-C.")
@click.option("--limit", default=MOST, show_default=True, type=click.IntRange(1), help="Calls that are read at most.")
@json_option
@where_options
def ps(watch: bool, limit: int, as_json: bool, app: str | None, redis_url: str | None) -> None:
    """Show the machines of the app and the calls that have not ended.

    Seconds and dollars are those for which a machine is billed, as far back as Fly's events tell; dollars are
    estimated.
    """
    if watch and as_json:
        raise click.UsageError("--watch is for a person, --json for a program: give one of them")
    where = Where(app, redis_url)
    with open_client(where, token=True) as client:
        stock = stock_of(client, where)

        def look() -> Seen:
            return Seen(stock.machines(), client.store.listing.overview(limit))

        if as_json:
            say_json(_as_json(look()))
        elif watch:
            _watch(look, console())
        else:
            out = console()
            out.print(_render(look(), out.width, None))


def _watch(look: Callable[[], Seen], out: Console) -> None:
    seen, trouble = look(), ""
    try:
        # We draw by ourselves: nothing changes in between, and Live needs no thread then.
        with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                live.update(_render(seen, out.width, out.height - 1, trouble), refresh=True)
                time.sleep(EVERY)
                try:
                    seen, trouble = look(), ""
                except FlyExecutorError as exc:
                    trouble = f"This is {seconds(EVERY)} old or more: {exc}"
    except KeyboardInterrupt:
        return


def _render(seen: Seen, width: int, height: int | None, trouble: str = "") -> Group:
    """height: lines that there are; machines and calls that have no room are counted."""
    room = len(seen.machines) if height is None else max(LEAST_ROWS, height // 2 - 3)
    first = sorted(seen.machines, key=lambda machine: (machine.state != "started", machine.id))[:room]
    machines = table_of_machines(width, "Machines", first, keepers=True)
    calls = seen.redis.calls
    # Titles, heads, an empty line, and the text below.
    other = machines.row_count + 6 + -(-SUMMARY // width)
    room = len(calls) if height is None else max(LEAST_ROWS, height - other)
    shown = _table_of(calls[:room], width, digits_of(call.id for call in calls))
    parts: list[Any] = [machines if machines.row_count else Text("No machine."), Text()]
    parts.append(shown if shown.row_count else Text("No call that has not ended."))
    parts.append(Text(_summary(seen, machines.row_count, shown.row_count), style="dim"))
    if trouble:
        parts.append(Text(trouble, style="red"))
    return Group(*parts)


def _table_of(calls: Sequence[CallRecord], width: int, digits: int) -> Table:
    """A line for each call. digits: of an id, that tell it from the others."""
    columns = {
        "id": [plain(call.id)[: None if width >= WIDE else digits] for call in calls],
        "name": [call.name for call in calls],
        "state": [str(call.state or "damaged") for call in calls],
        "age": [
            seconds(call.queued_seconds if call.running_seconds is None else call.running_seconds) for call in calls
        ],
        "machine": [plain(call.machine_id) for call in calls],
        "attempt": [str(call.attempt) for call in calls],
        "progress": [_tell_progress(call) for call in calls],
    }
    if width < MEDIUM:
        del columns["attempt"]
    if width < NARROW:
        del columns["machine"]
    return table_within(width, "Calls", columns, texts=("name", "progress"), right="age attempt")


def _summary(seen: Seen, machines: int, calls: int) -> str:
    """machines, calls: how many are shown."""
    queued = sum(lane.queued for lane in seen.redis.lanes)
    running = sum(lane.running for lane in seen.redis.lanes)
    price = sum(machine.dollars or 0.0 for machine in seen.machines)
    some_calls = f" ({calls} shown)" if calls < queued + running else ""
    some_machines = f" ({machines} shown)" if machines < len(seen.machines) else ""
    return (
        f"{running} running, {queued} queued{some_calls}; machines: {len(seen.machines)}{some_machines}, "
        f"{dollars(price)} (estimated)"
    )


def progress_of(call: CallRecord) -> Progress | None:
    """What a call says of itself. It is not signed: whoever can write to Redis may have written anything."""
    try:
        return Progress(*damage.progress(call.progress)) if call.progress else None
    except PayloadError:
        return None


def _tell_progress(call: CallRecord) -> str:
    progress = progress_of(call)
    if progress is None:
        return plain(call.damaged)
    number = f"{progress.done:g}" if progress.total is None else f"{progress.done:g}/{progress.total:g}"
    return f"{number} {plain(progress.note)}".rstrip()


def _as_json(seen: Seen) -> dict[str, Any]:
    calls = []
    for call in seen.redis.calls:
        progress = progress_of(call)
        calls.append({**asdict(call), "progress": progress and progress._asdict()})
    return {
        "machines": [asdict(machine) for machine in seen.machines],
        "calls": calls,
        "lanes": [asdict(lane) for lane in seen.redis.lanes],
    }
