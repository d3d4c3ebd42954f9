"""Level 8: `logs` and `kill`, about single calls by their ids.

`logs` only reads; `kill` listens for the end of a call that runs, in the client's thread. Neither has a fleet.
"""

import concurrent.futures
import contextlib
import sys
import time
from collections.abc import Sequence

import click

from flyexecutor.cli.common import Where, json_option, open_client, say_json, where_options
from flyexecutor.client import Client
from flyexecutor.errors import ExpiredCallError, UnknownCallError
from flyexecutor.future import KILL_PATIENCE, FlyFuture, Kill
from flyexecutor.listing import Printed
from flyexecutor.states import State

LOOK_EVERY = 1.0  # seconds: workers tell what a call has printed about as often
STOPPED = frozenset({State.KILLED, State.CANCELLED})


@click.command()
@click.argument("call_id", metavar="ID")
@click.option("--follow", "-f", is_flag=True, help="Go on until the call has ended.")
@json_option
@where_options
def logs(call_id: str, follow: bool, as_json: bool, app: str | None, redis_url: str | None) -> None:
    """Show what a call has printed.

    The last 32 kB; while it runs, as of a second ago.
    """
    with open_client(Where(app, redis_url), token=False) as client:
        client.check_id(call_id, "call")
        shown = _show(None, client.store.listing.printed(call_id), call_id, quiet=as_json)
        with contextlib.suppress(KeyboardInterrupt):  # the usual end of it
            while follow and not shown.state.final:
                time.sleep(LOOK_EVERY)
                now = client.store.listing.printed(call_id)
                if now is None:
                    break  # a call of `map` leaves no record when it ends
                shown = _show(shown, now, call_id, quiet=as_json)
    if as_json:
        say_json({"id": call_id, "state": shown.state, "attempt": shown.attempt, "logs": shown.text})


def _show(before: Printed | None, now: Printed | None, call_id: str, *, quiet: bool) -> Printed:
    if now is None:
        raise ExpiredCallError(f"the call {call_id} is no longer known: its outcome was kept for a time (result_ttl)")
    if not quiet:
        again = before is None or before.attempt != now.attempt
        click.echo(now.text if before is None or again else added(before.text, now.text), nl=False)
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

    They get SIGTERM, and SIGKILL 5 seconds later. Says for each id what came of it: "killed", "already done" or
    "unknown". Exit code 1 if any is unknown.
    """
    with open_client(Where(app, redis_url), token=False) as client:
        told = _kill_all(client, list(dict.fromkeys(call_ids)))
    if as_json:
        say_json({"calls": [{"id": call_id, "result": str(result)} for call_id, result in told.items()]})
    else:
        for call_id, result in told.items():
            click.echo(f"{call_id}  {result}")
    if Kill.UNKNOWN in told.values():
        raise SystemExit(1)


def _kill_all(client: Client, call_ids: Sequence[str]) -> dict[str, Kill]:
    told = dict.fromkeys(call_ids, Kill.UNKNOWN)
    futures: dict[str, FlyFuture[object]] = {}
    for call_id in call_ids:
        try:
            client.check_id(call_id, "call")
            seen = client.store.listing.printed(call_id)
            if seen and seen.state.final:
                told[call_id] = Kill.DONE  # not attached to: its result may be large, and is nobody's business here
            elif seen:
                futures[call_id] = client.attach(call_id)
        except (UnknownCallError, ExpiredCallError):
            continue
    for future in futures.values():
        future.order_kill()  # all first: then they end at the same time
    ended, _ = concurrent.futures.wait(futures.values(), KILL_PATIENCE)
    for call_id, future in futures.items():
        if future in ended:
            told[call_id] = Kill.KILLED if future.state() in STOPPED else Kill.DONE
    return told
