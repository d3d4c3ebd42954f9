"""FlyMachineExecutor: the concurrent.futures contract and the options. No threads, no Redis, no HTTP.

What it promises is here, and each promise is kept elsewhere: calls are made in client/caller.py (step 1), machines are
seen to in fleet/stock.py and fleet/schedules.py, and its end is in client/life.py.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from types import ModuleType, TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from flyexecutor.arguments import check_given, check_integers, check_numbers, check_texts, read_env, read_volume
from flyexecutor.client import terminal
from flyexecutor.client.batch import Batch
from flyexecutor.client.caller import Caller
from flyexecutor.client.client import Client
from flyexecutor.client.fanout import Sizes
from flyexecutor.client.future import FlyFuture
from flyexecutor.client.life import Life
from flyexecutor.client.local_fly import UsedLocal
from flyexecutor.client.signatures import typed_map, typed_schedule, typed_starmap, typed_submit_batch
from flyexecutor.client.stream import ItemStream
from flyexecutor.errors import SettingsError
from flyexecutor.fleet.config import MachineSpec, owners_of, read_needs
from flyexecutor.fleet.guests import SUSPEND_MB, GuestName, Prices, read_guest, read_prices
from flyexecutor.fleet.lanes import Lanes, Limits
from flyexecutor.fleet.schedules import Schedule, Schedules
from flyexecutor.fleet.stock import ORPHAN_AFTER, MachineInfo, Stock
from flyexecutor.lane import Lane, Stats
from flyexecutor.local import LocalFly
from flyexecutor.options import Options, read_warmup
from flyexecutor.payload import pickles
from flyexecutor.retry import Retry
from flyexecutor.secrecy import hide
from flyexecutor.settings import machine_settings, read_settings

P = ParamSpec("P")
T = TypeVar("T")


class FlyMachineExecutor(Executor):
    """An `Executor` whose workers are Fly Machines.

    Where things are comes from the arguments or, left out, from the environment: `app` (FLY_TASKS_APP) holds the
    machines, `token` (FLY_API_TOKEN) may start them, `api_url` (FLY_API_HOSTNAME) is where, `redis_url` (REDIS_URL)
    carries the calls, `image` (WORKER_IMAGE, else FLY_IMAGE_REF) is what the machines run, `regions` (FLY_REGION) are
    tried in order, `secret` (FLYEXECUTOR_SECRET, else derived from the token) signs what is pickled. Inside a machine,
    `FlyMachineExecutor()` adds calls to those that its machines run.

    max_workers: machines at the same time, at most.
    concurrency: calls that one machine runs at a time, each in a process of its own.
    guest: size of a machine by Fly's name, as "shared-cpu-2x", "performance-1x" or "a10", or in Fly's words, as
        `{"cpu_kind": "shared", "cpus": 1, "memory_mb": 512}`.
    env: environment variables of the machines. (Secrets belong in `fly secrets set`.)
    volume: name and path of a Fly volume, as ("models", "/models"): each machine gets one of that name.
    warm: idle machines that are kept, suspended (see suspend_mb) or else stopped: they cost their disk only, and
        start in parallel. Others destroy themselves when they have nothing to do.
    suspend_mb: machines with so many MB of memory, or less, are suspended when they rest; larger ones stop. Fly's pages
        disagree about those above 2048, up to 4096: one that Fly refuses to suspend stops.
    warmup: a function that each process of a machine runs before the machine is first suspended: imports, models.
    idle_timeout: seconds after which a machine without work rests. Left out: 0.25, or 10 if it can't be suspended.
    max_lifetime: seconds that a machine runs at most, from its start, whatever happens. A call that still runs then is
        lost with it.
    max_cost_per_hour: dollars, estimated: calls wait rather than have more machines at a time than that buys.
    prices: what machines cost, if not what we know.
    boot_timeout: seconds that a machine may take from its start to its worker's first sign.
    retries: further attempts of a call that raised or whose machine was lost, 0: at most once; or a `Retry`, which
        tells these apart. Left out: 2 for lost machines, none for exceptions.
    timeout: seconds that a call may run; then it is stopped, and raises CallTimeoutError.
    expires: seconds in which a worker must begin a call; else it never runs, and raises NotStartedError.
    result_ttl: seconds that the outcome of a submitted call is kept, for `future(id)`.
    max_payload: bytes that the arguments, and the result, of a call may have.
    encrypt: what calls are given and what they come to can't be read in Redis (FLYEXECUTOR_ENCRYPT=1). Needs the extra
        `crypto`, in the image too. Names, progress, what calls print, sizes and times can be read.
    ship: modules of yours that the image does not have: their functions and classes travel with the calls.
    initializer, initargs: a function that each process runs before its first call of this executor, as in
        ProcessPoolExecutor; if it raises, the call raises InitializerError.
    local: True starts a Machines API and a Redis on this computer and uses those, alone and for as long as this
        executor lives. A name: the same for all processes of this computer that say that name, until the last has
        ended. Or give a `LocalFly` of yours: `LocalFly(show_output=False)` doesn't show what machines print. Inside a
        machine nothing is started.

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
        guest: GuestName | Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        volume: tuple[str, str] | None = None,
        warm: int = 10,
        suspend_mb: int = SUSPEND_MB,
        warmup: Callable[[], object] | None = None,
        idle_timeout: float | None = None,
        max_lifetime: float = 86400.0,
        max_cost_per_hour: float | None = None,
        prices: Prices | None = None,
        boot_timeout: float = 120.0,
        retries: "int | Retry | None" = None,
        timeout: float | None = None,
        expires: float | None = None,
        result_ttl: float = 86400.0,
        max_payload: int = pickles.MAX_PAYLOAD,
        ship: Sequence[ModuleType] = (),
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        redis_url: str | None = None,
        token: str | None = None,
        api_url: str | None = None,
        secret: str | None = None,
        encrypt: bool | None = None,
        local: "bool | str | LocalFly | None" = None,
    ) -> None:
        # First: an error's traceback may be shown with the values of its variables.
        token, redis_url, secret = hide(token), hide(redis_url), hide(secret)
        env = hide(env) if isinstance(env, dict) else env
        options = Options.read(
            retries=retries,
            timeout=timeout,
            expires=expires,
            max_payload=max_payload,
            ship=ship,
            initializer=initializer,
            initargs=initargs,
        )
        limits = Limits(max_workers, max_cost_per_hour)
        # What settings and keys say follows: what is wrong here is refused before anything is started.
        spec = MachineSpec(
            image="",
            guest=read_guest(guest),
            env={} if env is None else read_env(env),
            regions=(),
            concurrency=concurrency,
            idle_timeout=idle_timeout,
            boot_timeout=boot_timeout,
            max_lifetime=max_lifetime,
            warm=warm,
            volume=read_volume(volume),
            warmup=None,
            suspend_mb=suspend_mb,
        )
        check_given(1, result_ttl=result_ttl)
        self._prices = read_prices(prices)
        inside = machine_settings() if app is None and token is None and not isinstance(local, LocalFly) else None
        self._local = UsedLocal.find(None if inside else local)
        with self._local.closed_on_error():
            self._settings = inside or read_settings(
                app=app,
                image=image,
                regions=regions,
                redis_url=redis_url,
                token=token,
                api_url=api_url,
                secret=secret,
                encrypt=encrypt,
                environ=self._local.environ,
            )
            self._trust = self._settings.make_trust()
            sealed = read_warmup(warmup, self._trust, options.ship)
            spec = replace(spec, image=self._settings.image, regions=self._settings.regions, warmup=sealed)
            self._lanes = Lanes(spec, limits, self._settings, self._prices)
            self._client = Client(self._settings, self._lane, self._trust, result_ttl=result_ttl, prices=self._prices)
            self._life = Life(self._client, self._local)
            self._use(options, self._lanes)

    def _use(self, options: Options, lanes: Lanes) -> None:
        self._refuse_inside(on_oom=options.retry.on_oom == "bigger")
        self._options = options
        self._lanes = lanes
        self._caller = Caller(self._client, self._trust, lanes, options, self._life)

    @property
    def _lane(self) -> Lane:
        return self._lanes.lane

    # Made for each use: after a fork the client has other connections.

    @property
    def _stock(self) -> Stock:
        client = self._client
        return Stock(client.store, client.machines, client.lists, self._prices, owners_of(self._settings))

    @property
    def _schedules(self) -> Schedules:
        client = self._client
        return Schedules(client.store, client.machines, client.lists, self._trust, owners_of(self._settings))

    @property
    def _max_workers(self) -> int:  # dask and joblib read it
        return self._lanes.limits.max_workers

    def __repr__(self) -> str:
        return f"<FlyMachineExecutor {self._settings!r}{' closed' if self._client.closed else ''}>"

    def __reduce__(self) -> tuple[Callable[[], "FlyMachineExecutor"], tuple[()]]:
        # A function that uses the executor travels with it: on its machine it is one of that machine's lane.
        return _executor_of_this_machine, ()

    @overload
    def submit(self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> FlyFuture[T]: ...
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> FlyFuture[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> FlyFuture[Any]:
        """Have `fn(*args, **kwargs)` run on a machine. Never waits for the network.

        The call is pickled now: changing an argument afterwards changes nothing. What can't be pickled is the future's
        exception. What an `async def` function comes to is awaited on the machine. Raises RuntimeError after shutdown.
        """
        return self._caller.submit(fn, args, kwargs)

    @typed_map
    def map(  # type: ignore[override] # that of Executor takes whatever there is
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[Any]:
        """`map(fn, *iterables)` over machines; results in order, kept nowhere once they are delivered.

        timeout: seconds from now in which each result must have come, else TimeoutError.
        chunksize: items that travel as one call: worth it when an item takes milliseconds. If its machine is lost it is
            sent again in halves: only the guilty item fails.
        buffersize: at most so many calls are submitted and not delivered; inputs are then drawn lazily.
        return_exceptions: an item that raises gives its exception as its result, and costs no other item.

        `fn` and large arguments that repeat are sent once. What can't be pickled is the exception of its items.
        """
        items = zip(*iterables, strict=False)
        return self._caller.fan_out(fn, items, Sizes.read(chunksize, buffersize, timeout), return_exceptions).ordered()

    @typed_starmap
    def starmap(
        self,
        fn: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[Any]:
        """Like `map`, for arguments that are tuples already: `fn(*args)` for each of them."""
        items = map(tuple, iterable)
        return self._caller.fan_out(fn, items, Sizes.read(chunksize, buffersize, timeout), return_exceptions).ordered()

    @typed_map
    def map_unordered(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[Any]:
        """Like `map`, with results as they come."""
        items = zip(*iterables, strict=False)
        return self._caller.fan_out(
            fn, items, Sizes.read(chunksize, buffersize, timeout), return_exceptions
        ).unordered()

    def stream(self, fn: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs) -> ItemStream[T]:
        """Run a generator function on a machine and iterate over what it yields, as it comes.

        `.future` is the handle on its call. Leaving the loop early does not end the call: `close()` does.
        """
        return self._caller.stream(fn, args, kwargs)

    @typed_submit_batch
    def submit_batch(self, fn: Callable[..., Any], /, *iterables: Iterable[Any]) -> Batch[Any]:
        """Submit a call for each item, as `map` does, under one id: `batch(id)` attaches to all of them."""
        return self._caller.submit_batch(fn, iterables)

    def batch(self, batch_id: str) -> Batch[Any]:
        """Attach to a batch from any process.

        A call whose outcome is no longer kept has a future that raises ExpiredCallError; so has, some minutes after
        `submit_batch`, one that was never stored. Until then its future waits for it. Raises as `future`.
        """
        self._check_id(batch_id, "batch")
        return Batch(batch_id, self._client.attaching.attach_batch(batch_id), self._client.batch)

    def future(self, call_id: str) -> FlyFuture[Any]:
        """Attach to a call from any process: the future of this id, pending or ended.

        One round trip to Redis for each call (none while a future of it is alive in this process). Raises
        ExpiredCallError when the outcome is no longer kept, UnknownCallError when there never was such a call,
        RedisUnavailableError when Redis does not answer.
        """
        self._check_id(call_id, "call")
        return self._client.attaching.attach(call_id)

    def with_options(
        self,
        *,
        retries: "int | Retry | None" = None,
        timeout: float | None = None,
        expires: float | None = None,
        key: str | None = None,
        name: str | None = None,
        image: str | None = None,
        guest: GuestName | Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        regions: Sequence[str] | None = None,
        volume: tuple[str, str] | None = None,
    ) -> Self:
        """This executor with other options for the calls that are submitted through what is returned.

        Left out: as here. It shares everything else; shutting down one shuts down both. Another image, guest,
        environment or volume means other machines: these calls have a queue and a fleet of their own.

        key: names one call. A second submit with the same key, from any process, attaches to the first instead of
            running again, until the outcome of the first has expired. For `submit` only.
        name: what the calls are called wherever their ids are shown, in up to 100 characters; left out, as their
            function. It travels as plain text, which is not signed.
        """
        options = self._options.changed(retries=retries, timeout=timeout, expires=expires, key=key, name=name)
        needs = read_needs(image=image, guest=guest, env=env, regions=regions, volume=volume)
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        lanes = self._lanes
        if needs:
            self._refuse_inside(**dict.fromkeys(needs, True))
            lanes = lanes.of_others(**needs)
            self._client.fleets.know([lanes.lane])
        other._use(options, lanes)
        return other

    def set_limits(self, *, max_workers: int | None = None, max_cost_per_hour: float | None = None) -> None:
        """Change how many machines this executor has at most, from now on; machines that work are not stopped.

        What `with_options` made of it, for the same machines, has the same limits.
        """
        self._refuse_inside(set_limits=True)
        self._client.fleets.know(self._lanes.set_limits(max_workers, max_cost_per_hour))

    def stats(self) -> Stats:
        """What the machines of this executor do, and have cost. One round trip to Redis."""
        return self._stock.stats(self._lane)

    def machines(self) -> list[MachineInfo]:
        """The machines of the app that are ours, those of other executors too. One request of the Machines API."""
        return self._stock.machines()

    def prepare(self, number: int, timeout: float = 600.0) -> None:
        """Have so many machines ready: they are created (Fly allows one a second), run `warmup`, and rest until calls
        come. They are kept, whatever `warm` says, and over deploys too, until `reap`. Returns when all rest.

        In a terminal it shows how far it is, if rich is installed. When it is interrupted it logs what it has made.
        timeout: seconds. Raises MachineStartError, and SettingsError for more machines than may run at a time.
        """
        self._refuse_inside(prepare=True)
        check_integers(0, number=number)
        check_given(0, timeout=timeout)
        self._lanes.refuse_more_than_may_run(number)
        app = None if self._local.fly else self._settings.app
        terminal.prepare(self._stock, self._lane, number, timeout, app)

    @typed_schedule
    def schedule(
        self,
        fn: Callable[..., object],
        /,
        *args: Any,
        every: str,
        name: str | None = None,
        at_once: bool = True,
        **kwargs: Any,
    ) -> Schedule:
        """Have Fly make this call "hourly", "daily", "weekly" or "monthly", from now on, with nobody there to start it.

        To be declared at each start of an app, by each of its processes: a schedule of this name that is there stays if
        it is the same, and is replaced if function, arguments, options or machine differ. It keeps its times then, and
        a run that is under way is stopped. (Sets of texts and classes of `__main__` count as different each time.)

        Its runs are calls like others; `schedules()` knows the ids of the last. The machine costs its disk in between.
        Fly counts from the creation, is not exact, and misses a run if the last one still goes on or the machine's host
        has no room: don't rely on a single one.

        name: by default the function's; `unschedule(name)` ends it.
        at_once: whether a schedule that is new runs now for the first time, or after an interval.

        Raises SettingsError, MachinesError, RedisUnavailableError.
        """
        self._caller.check_function(fn)
        check_texts(name=name)
        self._refuse_inside(schedule=True)
        return self._schedules.add(
            self._lane,
            fn,
            args,
            kwargs,
            every=every,
            name=name,
            at_once=at_once,
            options=self._options,
            result_ttl=self._client.result_ttl,
        )

    def schedules(self) -> list[Schedule]:
        """The schedules of this app."""
        return self._schedules.list()

    def unschedule(self, name: str) -> None:
        """End a schedule, and what runs of it. Raises SettingsError that names those that are there."""
        self._schedules.remove(name)

    def reap(self, older_than: float = ORPHAN_AFTER) -> list[MachineInfo]:
        """Destroy machines that nobody will use: those that rest and whose lane had no call for `older_than` seconds,
        and those that run without a worker. Never one that is not ours. Answers what was destroyed.
        """
        check_given(0, older_than=older_than)
        return self._stock.reap(older_than)

    def flush(self, timeout: float | None = None) -> None:
        """Return when everything submitted so far is stored in Redis, and a worker is there for it or Fly has accepted
        the start of a machine: from then on it runs, whatever happens to us. (Inside a machine: when it is stored.)

        timeout: seconds. Raises RedisUnavailableError with the reason if it is not stored; MachineStartError if it is,
        and no machine could be asked for in that time: then this client goes on trying as long as it lives, and so does
        another of the app once it submits or attaches to calls for the same machines.
        """
        check_numbers(0, timeout=timeout)
        self._client.flush(timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. wait: return when those submitted here have ended. cancel_futures: take back what no
        worker has claimed.
        """
        self._life.shutdown(wait=wait, cancel_futures=cancel_futures)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Waits until the calls that were submitted here have ended, whatever has ended the block, as in CPython.

        Ctrl-C, in the block or while this waits, cancels what no worker has claimed and logs what still runs; this then
        waits for that. A second Ctrl-C leaves at once: what runs goes on, as nobody waits for it. A task of asyncio
        that is cancelled in the block is what Ctrl-C is there (CPython: asyncio.Runner).
        """
        if not isinstance(exc, KeyboardInterrupt | asyncio.CancelledError):
            try:
                self.shutdown(wait=True)
            except KeyboardInterrupt:
                self._life.end_interrupted()
                raise
        else:
            self._life.end_interrupted()

    def _check_id(self, its_id: str, what: str) -> None:
        self._client.attaching.check_id(its_id, what, remedy=self._local.remedy)

    def _refuse_inside(self, **needs: bool) -> None:
        """Raises SettingsError that names what needs other machines, inside a machine."""
        needed = [name for name, is_needed in needs.items() if is_needed]
        if needed and not self._settings.token:
            raise SettingsError(f"{', '.join(needed)}: inside a machine nobody can start other machines")


_inside: FlyMachineExecutor | None = None


def _executor_of_this_machine() -> FlyMachineExecutor:
    global _inside  # noqa: PLW0603 - one for all calls of this process
    if machine_settings() is None:
        raise SettingsError(
            "an executor can be unpickled in a call on one of its machines only: the processes that it starts do not "
            "inherit the key"
        )
    if _inside is None:
        _inside = FlyMachineExecutor()
    return _inside
