"""Level 7: FlyMachineExecutor, the concurrent.futures contract and the options. No threads, no Redis, no HTTP.

Step 1 of a call's way is here: `submit` makes the snapshot, in the caller's thread, and hands it to the client.
"""

import concurrent.futures
import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar

from flyexecutor import payload
from flyexecutor.call import Call
from flyexecutor.client import Client
from flyexecutor.errors import SettingsError
from flyexecutor.future import FlyFuture
from flyexecutor.lane import METADATA_KEY, Lane, name_lane
from flyexecutor.local import LocalError, LocalFly
from flyexecutor.settings import Settings, read_settings
from flyexecutor.trust import KEY_VARIABLE, Trust
from flyexecutor.worker.chunks import run_chunk

P = ParamSpec("P")
T = TypeVar("T")

STOP_TIMEOUT = 30  # seconds that a stopped machine's worker has to hand back what it runs (Fly: stop_config.timeout)
RESTARTS = 3  # of a machine whose worker died, by Fly and without us


class FlyMachineExecutor(Executor):
    """An `Executor` whose workers are Fly Machines.

    Where things are comes from the arguments or, left out, from the environment: `app` (FLY_TASKS_APP) holds the
    machines, `token` (FLY_API_TOKEN) may start them, `api_url` (FLY_API_HOSTNAME) is where, `redis_url` (REDIS_URL)
    carries the calls, `image` (WORKER_IMAGE, else FLY_IMAGE_REF) is what the machines run, `regions` (FLY_REGION) are
    tried in order, `secret` (FLYEXECUTOR_SECRET, else derived from the token) signs what is pickled.

    max_workers: machines at the same time, at most.
    concurrency: calls that one machine runs at a time, each in a process of its own.
    guest: size of a machine in Fly's words, as `{"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}`.
    env: environment variables of the machines. (Secrets belong in `fly secrets set`.)
    idle_timeout: seconds after which a machine without work stops. A stopped machine costs its disk only.
    boot_timeout: seconds that a machine may take from its start to its worker's first sign.
    retries: further attempts of a call whose machine was lost. 0: at most once.
    result_ttl: seconds that the outcome of a submitted call is kept, for `future(id)`.
    local: True starts a Machines API and a Redis on this computer and uses those; or give a `LocalFly` of yours.

    Raises SettingsError that names everything that is missing or wrong.
    """

    def __init__(
        self,
        app: str | None = None,
        *,
        image: str | None = None,
        max_workers: int = 10,
        concurrency: int = 1,
        regions: Sequence[str] | None = None,
        guest: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        idle_timeout: float = 10.0,
        boot_timeout: float = 120.0,
        retries: int = 2,
        result_ttl: float = 86400.0,
        redis_url: str | None = None,
        token: str | None = None,
        api_url: str | None = None,
        secret: str | None = None,
        local: "bool | LocalFly | None" = None,
    ) -> None:
        _check_at_least(1, max_workers=max_workers, concurrency=concurrency, result_ttl=result_ttl)
        _check_at_least(0, retries=retries, idle_timeout=idle_timeout)
        _check_at_least(1, boot_timeout=boot_timeout)
        own_local = _start_local() if local is True else None
        self._close_local: Callable[[], None] = own_local.close if own_local else lambda: None
        where = local if isinstance(local, LocalFly) else own_local
        try:
            settings = read_settings(
                app=app,
                image=image,
                regions=regions,
                redis_url=redis_url,
                token=token,
                api_url=api_url,
                secret=secret,
                environ=where.environ() if where else os.environ,
            )
            trust = Trust(settings.key, settings.app)
            config = _machine_config(
                settings, trust, guest=guest, env=env, concurrency=concurrency, idle_timeout=idle_timeout
            )
            lane = Lane(
                name=config["metadata"][METADATA_KEY],
                config=config,
                regions=settings.regions,
                max_workers=max_workers,
                concurrency=concurrency,
                boot_timeout=boot_timeout,
            )
            self._client = Client(settings, lane, trust, result_ttl=result_ttl)
        except BaseException:
            self._close_local()
            raise
        self._settings = settings
        self._trust = trust
        self._retries = retries
        self._max_workers = max_workers  # dask reads it
        self._gate = threading.Lock()  # submit against shutdown: no call is sent after the last was waited for
        self._closed = False
        # An executor that nobody holds any longer still delivers what it has sent, and then ends its threads.
        weakref.finalize(self, self._client.close_when_drained, self._close_local).atexit = False

    def __repr__(self) -> str:
        return f"<FlyMachineExecutor {self._settings!r}{' closed' if self._closed else ''}>"

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> FlyFuture[T]:
        """Have `fn(*args, **kwargs)` run on a machine. Never waits for the network.

        The call is pickled now: changing an argument afterwards changes nothing. What can't be pickled is the future's
        exception. Raises RuntimeError after shutdown.
        """
        return self._submit(fn, args, kwargs, keep=True)

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """`map(fn, *iterables)` over machines; results in order, kept nowhere once they are delivered.

        timeout: seconds from now in which each result must have come, else TimeoutError.
        chunksize: items that travel as one call: worth it when an item takes milliseconds.
        buffersize: at most so many calls are submitted and not delivered; inputs are then drawn lazily.
        """
        for name, value in (("chunksize", chunksize), ("buffersize", 1 if buffersize is None else buffersize)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}: it must be an integer of at least 1")
        deadline = None if timeout is None else time.monotonic() + timeout
        items = zip(*iterables, strict=False)
        futures = (
            self._submit(run_chunk, (fn, chunk), {}, keep=False)
            for chunk in iter(lambda: tuple(itertools.islice(items, chunksize)), ())
        )
        # Submitted here, not at the first next(): a map that nobody iterates runs as well.
        sent = deque(futures if buffersize is None else itertools.islice(futures, buffersize))
        return _deliver(sent, futures, deadline)

    def future(self, call_id: str) -> FlyFuture[Any]:
        """Attach to a call from any process: the future of this id, pending or ended.

        One round trip to Redis for each call (none while a future of it is alive in this process). Raises
        ExpiredCallError when the outcome is no longer kept, UnknownCallError when there never was such a call,
        RedisUnavailableError when Redis does not answer.
        """
        return self._client.attach(call_id)

    def flush(self, timeout: float | None = None) -> None:
        """Return when everything submitted so far is stored in Redis: from then on it runs, whatever happens to us.

        timeout: seconds. Raises RedisUnavailableError with the reason.
        """
        self._client.flush(timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. wait: return when those submitted here have ended. cancel_futures: take back what no
        worker has claimed.
        """
        with self._gate:
            self._closed = True
            futures = self._client.pending()
        if cancel_futures:
            for future in futures:
                future.cancel()
        if wait:
            concurrent.futures.wait(futures)
            self._client.close()
            self._close_local()
        else:
            self._client.close_when_drained(self._close_local)

    def _submit(
        self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, keep: bool
    ) -> FlyFuture[Any]:
        if not callable(fn):
            raise TypeError(f"{fn!r} is not callable: give submit the function and its arguments apart")
        self._refuse_if_closed()
        call_id = self._trust.new_call_id()
        try:
            body = payload.dump_call(fn, args, kwargs)
        except Exception as exc:  # noqa: BLE001 - user code pickles itself and may raise anything
            return self._client.failed(call_id, exc)
        call = Call(call_id, self._trust.seal_call(call_id, body), self._retries, keep)
        with self._gate:
            self._refuse_if_closed()
            return self._client.send(call)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")


def _start_local() -> LocalFly:
    try:
        return LocalFly()
    except LocalError as exc:
        raise SettingsError(f"local=True is not possible here: {exc}") from None


def _machine_config(
    settings: Settings,
    trust: Trust,
    *,
    guest: Mapping[str, Any] | None,
    env: Mapping[str, str] | None,
    concurrency: int,
    idle_timeout: float,
) -> dict[str, Any]:
    """Fly's `config` for a machine of ours; it names its lane, in its metadata and to its worker."""
    config: dict[str, Any] = {
        "image": settings.image,
        "env": {
            **(env or {}),
            "REDIS_URL": settings.redis_url,
            KEY_VARIABLE: trust.exported,
            "FLYEXECUTOR_CONCURRENCY": str(concurrency),
            "FLYEXECUTOR_IDLE_TIMEOUT": str(idle_timeout),
        },
        "restart": {"policy": "on-failure", "max_retries": RESTARTS},
        "stop_config": {"signal": "SIGTERM", "timeout": f"{STOP_TIMEOUT}s"},
        "init": {"exec": ["python", "-m", "flyexecutor.worker"]},
    }
    if guest:
        config["guest"] = dict(guest)
    lane = name_lane(config, settings.key)
    config["env"]["FLYEXECUTOR_LANE"] = lane
    config["metadata"] = {METADATA_KEY: lane}
    return config


def _check_at_least(least: int, **values: float) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            raise SettingsError(f"{name} is {value!r}: it must be a number of at least {least}")


def _deliver(
    sent: deque[FlyFuture[list[T]]], more: Iterator[FlyFuture[list[T]]], deadline: float | None
) -> Iterator[T]:
    try:
        while sent:
            result = sent[0].result(None if deadline is None else deadline - time.monotonic())
            sent.popleft()  # what has been delivered is not held here any longer
            sent.extend(itertools.islice(more, 1))
            yield from result
            del result
    finally:
        for future in sent:
            future.cancel()
