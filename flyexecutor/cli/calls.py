"""`logs` and `kill`, about single calls by their ids.

`logs` only reads; `kill` listens for the end of a call that runs, in the client's thread. Neither has a fleet.
"""

import concurrent.futures
import contextlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import click

from flyexecutor.cli.common import Where, json_option, open_client, plain, say_json, where_options
from flyexecutor.client.client import Client
from flyexecutor.client.future import KILL_PATIENCE, FlyFuture, Kill
from flyexecutor.errors import ExpiredCallError, PayloadError, UnknownCallError
from flyexecutor.names import visible
from flyexecutor.states import State
from flyexecutor.store.listing import Printed

LOOK_EVERY = 1.0  # seconds: workers tell what a call has printed about as often
STOPPED = frozenset({State.KILLED, State.CANCELLED})
BEGINNING = re.compile("[0-9a-f]{4,47}")  # of an id
CANDIDATES = 10  # calls that are named when several are meant


class Killed(NamedTuple):
    """What came of killing a call."""

    id: str
    name: str
    result: Kill


@click.command()
@click.argument("call_id", metavar="ID")
@click.option("--follow", "-f", is_flag=True, help="Go on until the call has ended.")
@click.option("--raw", is_flag=True, help="As it was printed: colours, progress bars, and whatever else acts.")
@json_option
@where_options
def logs(call_id: str, follow: bool, raw: bool, as_json: bool, app: str | None, redis_url: str | None) -> None:
    """Show what a call has printed.

    The first digits of an ID are enough if they name one call. The last 32 kB; while it runs, as of a second ago.
    """
    say = None if as_json else str if raw else visible
    with open_client(Where(app, redis_url), token=False) as client:
        call_id = whole_id(client, call_id)
        client.attaching.check_id(call_id, "call")
        shown = _show(None, client.store.listing.printed(call_id), call_id, say)
        with contextlib.suppress(KeyboardInterrupt):  # the usual end of it
            while follow and shown.state and not shown.state.final:
                time.sleep(LOOK_EVERY)
                now = client.store.listing.printed(call_id)
                if now is None:
                    break  # a call of `map` leaves no record when it ends
                shown = _show(shown, now, call_id, say)
    if as_json:
        described = {
            "id": call_id,
            "name": shown.name,
            "state": shown.state,
            "attempt": shown.attempt,
            "logs": shown.text,
        }
        say_json(described)


def _show(before: Printed | None, now: Printed | None, call_id: str, say: Callable[[str], str] | None) -> Printed:
    if now is None:
        raise ExpiredCallError(f"the call {call_id} is no longer known: its outcome was kept for a time (result_ttl)")
    if say and not (before or now.text):
        ended = now.state is None or now.state.final
        click.echo(f"It is {now.state or 'damaged'} and has printed nothing{'' if ended else ' yet'}.", err=True)
    if say:
        again = before is None or before.attempt != now.attempt
        text = say(now.text if before is None or again else added(before.text, now.text))
        click.echo(text, nl=False, color=True)  # else click takes colours away where there is no terminal
        sys.stdout.flush()
    return now


def added(before: str, now: str) -> str:
    """What has come since, of a text that is cut off at the front as it grows."""
    for at in range(len(before)):
        if now.startswith(before[at:]):
            return now[len(before) - at :]
    return now


@click.command()
@click.argument("call_ids", metavar="ID...", nargs=-1, required=True)
@json_option
@where_options
def kill(call_ids: Sequence[str], as_json: bool, app: str | None, redis_url: str | None) -> None:
    """Stop calls, even while they run.

    They get SIGTERM, and SIGKILL 5 seconds later. Says for each what came of it: "killed", "already done" or "unknown".
    The first digits of an ID are enough if they name one call; if one names several, none is stopped. Exit code 1 if
    any is unknown.
    """
    with open_client(Where(app, redis_url), token=False) as client:
        ended = _kill_all(client, list(dict.fromkeys(whole_id(client, call_id) for call_id in call_ids)))
    if as_json:
        say_json({"calls": [{"id": killed.id, "name": killed.name, "result": str(killed.result)} for killed in ended]})
    else:
        for killed in ended:
            click.echo(f"{plain(killed.id)}  {killed.result}  {killed.name}".rstrip())
    if any(killed.result is Kill.UNKNOWN for killed in ended):
        raise SystemExit(1)


def _kill_all(client: Client, call_ids: Sequence[str]) -> list[Killed]:
    results = dict.fromkeys(call_ids, Kill.UNKNOWN)
    names = dict.fromkeys(call_ids, "")
    futures: dict[str, FlyFuture[object]] = {}
    for call_id in call_ids:
        try:
            client.attaching.check_id(call_id, "call")
            seen = client.store.listing.printed(call_id)
            names[call_id] = seen.name if seen else ""
            if seen and seen.state and seen.state.final:
                results[call_id] = Kill.DONE  # not attached to: its result may be large, and is nobody's business here
            elif seen:
                futures[call_id] = client.attaching.attach(call_id)
        except (UnknownCallError, ExpiredCallError, PayloadError):
            continue
    for future in futures.values():
        future.order_kill()  # all first: then they end at the same time
    ended, _ = concurrent.futures.wait(futures.values(), KILL_PATIENCE)
    for call_id, future in futures.items():
        if future in ended:
            results[call_id] = Kill.KILLED if future.state() in STOPPED else Kill.DONE
    return [Killed(call_id, names[call_id], result) for call_id, result in results.items()]


def whole_id(client: Client, beginning: str) -> str:
    """The id that begins so; what begins none, or is whole, as it is. Raises ClickException that names several."""
    digits = beginning.lower()
    if not BEGINNING.fullmatch(digits):
        return beginning
    found = []
    for call_id in client.store.listing.ids_that_begin(digits):
        with contextlib.suppress(UnknownCallError):  # somebody else has made it up
            client.attaching.check_id(call_id, "call")
            found.append(call_id)
    if len(found) < 2:
        return found[0] if found else beginning
    lines = [f"{beginning!r} begins the ids of {len(found)} calls, give more of it:"]
    for call_id in found[:CANDIDATES]:
        seen = client.store.listing.printed(call_id)
        lines.append(f"{call_id}  {seen.state or 'damaged'}  {seen.name}" if seen else call_id)
    if len(found) > CANDIDATES:
        lines.append(f"and {len(found) - CANDIDATES} more")
    raise click.ClickException("\n".join(lines))
