"""`schedules`, the calls that Fly makes by itself: what there is, and how to remove it."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click

from flyexecutor.cli.common import (
    WIDE,
    Where,
    console,
    digits_of,
    json_option,
    open_client,
    plain,
    say_json,
    seconds,
    table_within,
    where_options,
)
from flyexecutor.client.client import Client
from flyexecutor.fleet.config import owners_of
from flyexecutor.fleet.schedules import Schedule, Schedules
from flyexecutor.payload.trust import Trust

RUNS = 3  # of each schedule that are shown
NARROW = 70  # columns below which less is told


@dataclass(frozen=True, slots=True)
class Run:
    """A call that a schedule has made."""

    id: str
    state: str | None  # None: its outcome is no longer kept
    at: float  # seconds since the epoch


@click.command()
@click.option("--remove", "names", multiple=True, metavar="NAME", help="End this one, and what runs of it; repeatable.")
@json_option
@where_options
def schedules(names: Sequence[str], as_json: bool, app: str | None, redis_url: str | None) -> None:
    """Show the calls that Fly makes by itself, or remove some.

    When the next run is due is about so: Fly counts from the creation, is not exact, and misses a run if the last one
    still goes on or the machine's host has no room. What an app declares at its start is there again after the next.
    """
    where = Where(app, redis_url)
    settings = where.settings(image=False)
    trust = settings.make_trust()
    names = list(dict.fromkeys(names))
    with open_client(where, token=True) as client:
        known = Schedules(client.store, client.machines, client.lists, trust, owners_of(settings))
        if names:
            known.remove(*names)
        found = [] if names else [(schedule, _runs_of(schedule, client, trust)) for schedule in known.list()]
    if names and as_json:
        say_json({"removed": names})
    elif names:
        click.echo("".join(f"{plain(name)}  removed\n" for name in names), nl=False)
    elif as_json:
        say_json({"schedules": [_as_json(schedule, runs) for schedule, runs in found]})
    elif found:
        _show(found)
    else:
        click.echo("No schedule.")


def _runs_of(schedule: Schedule, client: Client, trust: Trust) -> list[Run]:
    """Its last runs, the newest first. What somebody else has written into Redis is none."""
    ids = [call_id for call_id in schedule.call_ids if trust.knows(call_id)]
    states = client.store.listing.states(ids)
    return [
        Run(call_id, state and str(state), trust.made_at(call_id)) for call_id, state in zip(ids, states, strict=True)
    ]


def _show(found: Sequence[tuple[Schedule, Sequence[Run]]]) -> None:
    out, now = console(), time.time()
    columns = {
        "name": [plain(schedule.name) for schedule, _ in found],
        "every": [plain(schedule.every) for schedule, _ in found],
        "function": [plain(schedule.function).rpartition(".")[2] for schedule, _ in found],
        "state": [plain(schedule.state) for schedule, _ in found],
        "next in": [seconds(max(0.0, schedule.next_at - now)) if schedule.next_at else "" for schedule, _ in found],
        "machine": [plain(schedule.machine_id) for schedule, _ in found],
    }
    if out.width < NARROW:
        del columns["state"], columns["machine"]
    out.print(table_within(out.width, "Schedules", columns, texts=("name", "function"), right="next in"))
    runs = [(schedule.name, run) for schedule, its_runs in found for run in its_runs[:RUNS]]
    if not runs:
        return
    digits = digits_of(run.id for _, run in runs)
    columns = {
        "id": [run.id[: None if out.width >= WIDE else digits] for _, run in runs],
        "schedule": [plain(name) for name, _ in runs],
        "state": [run.state or "expired" for _, run in runs],
        "ago": [seconds(max(0.0, now - run.at)) for _, run in runs],
    }
    out.print()
    out.print(table_within(out.width, "Last runs", columns, texts=("schedule", ""), right="ago"))


def _as_json(schedule: Schedule, runs: Sequence[Run]) -> dict[str, Any]:
    described = asdict(schedule)
    del described["call_ids"]
    return {**described, "runs": [asdict(run) for run in runs]}
