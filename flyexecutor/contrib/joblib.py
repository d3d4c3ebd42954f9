"""joblib on machines: `register("fly", executor)`, then `joblib.parallel_config(backend="fly", n_jobs=8)`.

joblib takes no executor by itself; a backend of this kind is how it lets others do its work
(https://joblib.readthedocs.io/en/stable/parallel.html, "Custom backends").
"""

import contextlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from joblib import register_parallel_backend
from joblib.parallel import ParallelBackendBase

from flyexecutor.names import name_of


class FlyBackend(ParallelBackendBase):  # type: ignore[misc] # joblib has no types
    """Has an executor run joblib's batches of calls."""

    supports_retrieve_callback = True

    def __init__(self, executor: Executor, **options: Any) -> None:
        super().__init__(**options)
        self._executor = executor

    def effective_n_jobs(self, n_jobs: int) -> int:
        """How many batches are under way at a time: `n_jobs`, or as many as there may be machines."""
        workers: int = self._executor._max_workers  # type: ignore[attr-defined]
        return workers if n_jobs is None or n_jobs < 0 else n_jobs

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], None] | None = None) -> Future[Any]:
        """Submit a batch, under the name of its function: they are all of one class."""
        with contextlib.suppress(AttributeError, LookupError, TypeError):  # a later joblib may have others
            func.__qualname__ = name_of(func.items[0][0])  # type: ignore[attr-defined]
        future = self._executor.submit(func)
        if callback:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The results of a batch that has ended."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """An item raised: nothing to do, since joblib asks for no more; the executor is its maker's."""


def register(name: str, executor: Executor) -> None:
    """Let joblib know `executor` as the backend `name`."""
    register_parallel_backend(name, lambda **options: FlyBackend(executor, **options))
