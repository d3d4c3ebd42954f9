"""Step 7, for `map`: the items that travel as one call. Imports nothing, since every runner of a map loads it."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def run_chunk(fn: Callable[..., T], chunk: Sequence[Sequence[Any]]) -> list[T]:
    """Call `fn` with each item's arguments."""
    return [fn(*args) for args in chunk]
