"""What somebody at a terminal sees: a bar while he waits; after Ctrl-C what goes on, and how to end it."""

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flyexecutor.client.future import FlyFuture
from flyexecutor.fleet.stock import Prepared, Stock
from flyexecutor.lane import Lane

NAMED = 5  # of many

log = logging.getLogger("flyexecutor")


def prepare(stock: Stock, lane: Lane, number: int, timeout: float, app: str | None) -> None:
    """`Stock.prepare` with a bar; what it has made is logged if it ends early. app: None for a local Fly's."""
    so_far = Prepared(0)
    try:
        with showing(number) as show:

            def tell(prepared: Prepared) -> None:
                nonlocal so_far
                so_far = prepared
                show(prepared)

            stock.prepare(lane, number, timeout, tell)
    except BaseException as exc:
        if so_far.made or isinstance(exc, KeyboardInterrupt):
            log.warning(tell_of_machines(so_far, app))
        raise


def tell_of_calls(
    cancelled: int, left: Sequence[FlyFuture[Any]], *, own_local: bool, local_name: str | None = None
) -> str:
    """After the first Ctrl-C in a `with` block.

    own_local: their machines are processes that end with this one. local_name: of a local Fly that has one.
    """
    what = [f"{_count(cancelled, 'call')} that had not begun {_be(cancelled)} cancelled"] if cancelled else []
    if not left:
        return "".join(what)
    names = ", ".join(dict.fromkeys(future.name for future in left[:NAMED])) + (", ..." if left[NAMED:] else "")
    what.append(
        f"{_count(len(left), 'call')} ({names}) still run{'' if left[1:] else 's'} and {_be(len(left))} waited for"
    )
    ids = " ".join(future.id for future in left[:NAMED]) + (" ... (flyexecutor ps)" if left[NAMED:] else "")
    ids += f" (with the variables that flyexecutor local --name {local_name} prints)" if local_name else ""
    pronoun = "them" if left[1:] else "it"
    how = (
        f"Ctrl-C again ends {pronoun}"
        if own_local
        else f"Ctrl-C again leaves {pronoun}, flyexecutor kill {ids} ends {pronoun}"
    )
    return f"{', '.join(what)}: {how}"


def tell_of_machines(prepared: Prepared, app: str | None) -> str:
    """After a `prepare` that was interrupted, or has failed. app: None for a local Fly's."""
    if not prepared.made:
        return "prepare ended early: it has made no machine, unless it was just asking for one"
    made, more = _count(len(prepared.made), "machine"), "and perhaps one more that it was just asking for"
    if app is None:
        return f"prepare ended early, and what it made stays until the local Fly ends: {made}, {more}"
    return (
        f"prepare ended early, and what it made stays: {made}, at rest for $0.15 a GB of disk and 30 days (Fly's "
        f"price), {more}; to remove what it made: fly machine destroy --force -a {app} {' '.join(prepared.made)}"
    )


@contextlib.contextmanager
def showing(number: int) -> Iterator[Callable[[Prepared], None]]:
    """A bar for `prepare`, if there is somebody to see it and rich is installed."""
    if not (number and sys.stderr and sys.stderr.isatty() and importlib.util.find_spec("rich")):
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - only the extras cli and local bring it
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("prepare"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=2 * number)

        def show(prepared: Prepared) -> None:
            said = f"{prepared.there} there, {prepared.ready} ready"
            progress.update(bar, completed=prepared.there + prepared.ready, description=said, refresh=True)

        yield show


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _be(number: int) -> str:
    return "is" if number == 1 else "are"
