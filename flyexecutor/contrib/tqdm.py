"""A progress bar over futures, for terminals and notebooks: the items done, and how far the running calls are."""

from collections.abc import Iterable, Iterator
from concurrent.futures import as_completed
from typing import Any, TypeVar, cast

from flyexecutor.client.future import FlyFuture, Progress
from flyexecutor.names import shown

F = TypeVar("F", bound=FlyFuture[Any])


def progress_bar(futures: Iterable[F], **options: Any) -> Iterator[F]:
    """Iterate over futures as they end, with a tqdm bar.

    A call that uses `flyexecutor.progress(done, total)` moves the bar while it runs; its note is shown behind the bar.
    options: for tqdm, as `desc` or `disable`.
    """
    try:  # here, not above: tab completion imports this for its name, with tqdm or without
        from tqdm.auto import tqdm  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ModuleNotFoundError("progress_bar needs tqdm: pip install tqdm") from None
    futures = list(futures)
    parts = dict.fromkeys(futures, 0.0)  # how much of each call is done
    with tqdm(total=len(futures), **options) as bar:

        def show(future: F, part: float, note: str = "") -> None:
            parts[future] = max(parts[future], min(1.0, part))
            done = round(sum(parts.values()), 2)
            bar.n = int(done) if done.is_integer() else done  # it is shown as it is: 2/5, 2.5/5
            if note:
                bar.set_postfix_str(shown(note), refresh=False)
            bar.refresh()

        def listen(future: F) -> None:
            def heard(progress: Progress) -> None:
                show(future, progress.done / progress.total if progress.total else 0.0, progress.note)

            future.add_progress_callback(heard)

        for future in futures:
            listen(future)
        for ended in cast(Iterator[F], as_completed(futures)):
            show(ended, 1.0)
            yield ended
