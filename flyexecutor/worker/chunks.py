"""Step 7, for `map`: the items that travel as one call. Imports little, since every runner loads it."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from flyexecutor.payload import error_text, pickles
from flyexecutor.retry import Retry
from flyexecutor.worker import context, failures
from flyexecutor.worker.context import Stopped


@dataclass(frozen=True, slots=True)
class Failed:
    """Stands for the value of an item that raised."""

    dumped: pickles.Dumped
    again: bool  # it shall be tried again


def run_chunk(
    fn: Callable[..., Any], chunk: Sequence[Sequence[Any]], retry: Retry, return_exceptions: bool
) -> list[Any]:
    """Call `fn` with each item's arguments. The list ends with the first item that raised, unless all are wanted."""
    results: list[Any] = []
    channel = context.channel
    for number, args in enumerate(chunk):
        try:
            value = fn(*args)
            results.append(run_coroutine(value) if isinstance(value, Coroutine) else value)
        except BaseException as exc:
            if isinstance(exc, Stopped) or (channel and channel.forked):
                raise  # or the next item would begin
            again = retry.wants(exc, 0)
            pickles.add_remedy(exc)
            text = error_text.tell(exc)
            if channel:
                then = f", item {number} of {len(chunk)} in this call{'; it is tried again' if again else ''}"
                failures.log(channel, exc, text, then)
            results.append(Failed(pickles.dump_exception(exc, text), again))
            if not (return_exceptions or again):
                break
        if channel and channel.forked:
            break  # the items that follow are the runner's
    return results


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What the coroutine of an `async def` function comes to, in an event loop of its own."""
    import asyncio  # noqa: PLC0415 - takes as long to import as all else here

    return asyncio.run(coroutine)
