"""Level 7: what somebody who presses Ctrl-C is told: what goes on, and how to end it. Pure: text only."""

from collections.abc import Sequence
from typing import Any

from flyexecutor.future import FlyFuture

NAMED = 5  # of many


def tell_of_calls(cancelled: int, left: Sequence[FlyFuture[Any]], *, own_local: bool) -> str:
    """After the first Ctrl-C in a `with` block. own_local: their machines are processes that end with this one."""
    what = f"{count(cancelled, 'call')} that had not begun {be(cancelled)} cancelled"
    if not left:
        return what
    names = ", ".join(dict.fromkeys(future.name for future in left[:NAMED])) + (", ..." if left[NAMED:] else "")
    runs = f"{len(left)} still run{'' if left[1:] else 's'} ({names}) and {be(len(left))} waited for"
    ids = " ".join(future.id for future in left[:NAMED]) + (" ... (flyexecutor ps)" if left[NAMED:] else "")
    it = "them" if left[1:] else "it"
    how = f"Ctrl-C again ends {it}" if own_local else f"Ctrl-C again leaves {it}, flyexecutor kill {ids} ends {it}"
    return f"{what}, {runs}: {how}"


def count(number: int, what: str) -> str:
    """`1 call`, `2 calls`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def be(number: int) -> str:
    """`is` or `are`."""
    return "is" if number == 1 else "are"
