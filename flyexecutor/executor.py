"""FlyMachineExecutor, the concurrent.futures contract and the options. No threads, no Redis, no HTTP.

Step 1 of a call's way is here: `submit` makes the snapshot, in the caller's thread, and hands it to the client.
"""

import asyncio
import concurrent.futures
import logging
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from types import ModuleType, TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from flyexecutor.arguments import (
    check_given,
    check_integers,
    check_numbers,
    check_texts,
    read_env,
    read_modules,
    read_regions,
    read_volume,
)
from flyexecutor.call import Call, Part
from flyexecutor.client.batch import Batch
from flyexecutor.client.client import Client
from flyexecutor.client.fanout import FanOut, Sizes
from flyexecutor.client.future import FlyFuture
from flyexecutor.client.sharing import Sharing, dump_function
from flyexecutor.client.signatures import typed_map, typed_schedule, typed_starmap, typed_submit_batch
from flyexecutor.client.stream import ItemStream
from flyexecutor.client.terminal import showing, tell_of_calls, tell_of_machines
from flyexecutor.errors import NotStartedError, SettingsError
from flyexecutor.fleet.config import MachineSpec, owners_of
from flyexecutor.fleet.guests import SUSPEND_MB, GuestName, Prices, check_suspend_mb, read_guest
from flyexecutor.fleet.lanes import Lanes, Limits
from flyexecutor.fleet.schedules import Schedule, Schedules
from flyexecutor.fleet.stock import ORPHAN_AFTER, MachineInfo, Prepared, Stock
from flyexecutor.lane import Lane, Stats
from flyexecutor.local import LocalError, LocalFly
from flyexecutor.names import label
from flyexecutor.options import (
    Options,
    read_initializer,
    read_retries,
    read_warmup,
)
from flyexecutor.payload import pickles, plain
from flyexecutor.payload.trust import Encoding
from flyexecutor.retry import Retry
from flyexecutor.secrecy import hide
from flyexecutor.settings import Settings, machine_settings, read_settings
from flyexecutor.states import State
from flyexecutor.terms import NONCE_BYTES, UNFINISHED_TTL, CallTerms, answer_to, new_terms

P = ParamSpec("P")
T = TypeVar("T")

INTERRUPTED_WITHIN = 1.0  # seconds in which a second Ctrl-C is heard, at worst

log = logging.getLogger("flyexecutor")


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
        env = {} if env is None else read_env(env)
        check_integers(1, max_workers=max_workers, concurrency=concurrency)
        check_integers(0, warm=warm)
        check_suspend_mb(suspend_mb)
        check_numbers(0, idle_timeout=idle_timeout, max_cost_per_hour=max_cost_per_hour)
        check_given(1, result_ttl=result_ttl, boot_timeout=boot_timeout, max_lifetime=max_lifetime)
        if not isinstance(prices, Prices | None):
            raise SettingsError(f"prices is {prices!r}: it must be a Prices, as Prices(regions={{'gru': 1.5}})")
        if not isinstance(local, bool | str | LocalFly | None):
            raise SettingsError(f"local is {local!r}: it must be True, a name, or a LocalFly")
        self._options = Options(
            retry=Retry() if retries is None else read_retries(retries),
            timeout=timeout,
            expires=expires,
            max_payload=max_payload,
            ship=(modules := read_modules(ship)),
            initializer=read_initializer(initializer, initargs, modules),
        )
        inside = machine_settings() if app is None and token is None and not isinstance(local, LocalFly) else None
        where = None if inside else _find_local(local)
        close_local = where.close if where and where is not local else None
        try:
            settings = inside or read_settings(
                app=app,
                image=image,
                regions=regions,
                redis_url=redis_url,
                token=token,
                api_url=api_url,
                secret=secret,
                encrypt=encrypt,
                environ=where.environ() if where else None,
            )
            trust = settings.make_trust()
            spec = MachineSpec(
                image=settings.image,
                guest=read_guest(guest),
                env=env,
                regions=settings.regions,
                concurrency=concurrency,
                idle_timeout=idle_timeout,
                boot_timeout=boot_timeout,
                max_lifetime=max_lifetime,
                warm=warm,
                volume=read_volume(volume),
                warmup=read_warmup(warmup, trust, modules),
                suspend_mb=suspend_mb,
            )
            self._settings = settings
            self._trust = trust
            self._refuse_inside(on_oom=self._options.retry.on_oom == "bigger")
            prices = prices or Prices()
            limits = Limits(max_workers, max_cost_per_hour)
            self._lanes = Lanes(spec, limits, settings, prices, _lane_of_this_machine(settings) if inside else None)
            self._client = Client(settings, self._lane, trust, result_ttl=result_ttl, prices=prices)
        except BaseException:
            if close_local:
                close_local()
            raise
        self._prices = prices
        self._local = where
        self._life = _Life(self._client, close_local, own_local=local is True and where is not None)

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
        return self._submit(fn, args, kwargs, self._options)

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
        return self._fan_out(fn, items, Sizes.read(chunksize, buffersize, timeout), return_exceptions).ordered()

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
        return self._fan_out(fn, items, Sizes.read(chunksize, buffersize, timeout), return_exceptions).ordered()

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
        return self._fan_out(fn, items, Sizes.read(chunksize, buffersize, timeout), return_exceptions).unordered()

    def stream(self, fn: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs) -> ItemStream[T]:
        """Run a generator function on a machine and iterate over what it yields, as it comes.

        `.future` is the handle on its call. Leaving the loop early does not end the call: `close()` does.
        """
        self._check_function(fn)
        stream: ItemStream[T] = ItemStream(self._trust)
        stream.future = self._submit(fn, args, kwargs, self._options, keep=False, take=stream.take)
        stream.future.add_done_callback(stream.end)
        return stream

    @typed_submit_batch
    def submit_batch(self, fn: Callable[..., Any], /, *iterables: Iterable[Any]) -> Batch[Any]:
        """Submit a call for each item, as `map` does, under one id: `batch(id)` attaches to all of them."""
        self._check_function(fn)
        items = list(zip(*iterables, strict=False))  # all: whatever an iterable raises, nothing was submitted
        batch_id = self._trust.new_batch_id(len(items))
        pickled = dump_function(fn, self._options)
        function = fn if pickled is None else pickles.Pickled(pickled)
        name = self._options.name_call(fn)
        futures = [
            self._submit(function, args, {}, self._options, call_id=call_id, name=name)
            for call_id, args in zip(self._trust.calls_of_batch(batch_id), items, strict=True)
        ]
        return Batch(batch_id, futures, self._client.attaching.batch)

    def batch(self, batch_id: str) -> Batch[Any]:
        """Attach to a batch from any process.

        A call whose outcome is no longer kept has a future that raises ExpiredCallError; so has, some minutes after
        `submit_batch`, one that was never stored. Until then its future waits for it. Raises as `future`.
        """
        self._check_id(batch_id, "batch")
        return Batch(batch_id, self._client.attaching.attach_batch(batch_id), self._client.attaching.batch)

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
        told = {"timeout": timeout, "expires": expires, "key": key, "name": name}
        changes: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
        if retries is not None:
            changes["retry"] = read_retries(retries)
            self._refuse_inside(on_oom=changes["retry"].on_oom == "bigger")
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _options=replace(self._options, **changes))
        check_texts(image=image)
        machine: dict[str, Any] = {
            "image": image,
            "guest": read_guest(guest),
            "env": None if env is None else read_env(env),
            "regions": None if regions is None else read_regions(regions),
            "volume": read_volume(volume),
        }
        if needs := {name: value for name, value in machine.items() if value is not None}:
            self._refuse_inside(**dict.fromkeys(needs, True))
            other._lanes = self._lanes.of_others(**needs)
            self._client.fleets.know([other._lane])
        return other

    def set_limits(self, *, max_workers: int | None = None, max_cost_per_hour: float | None = None) -> None:
        """Change how many machines this executor has at most, from now on; machines that work are not stopped.

        What `with_options` made of it, for the same machines, has the same limits.
        """
        self._refuse_inside(set_limits=True)
        check_numbers(0, max_cost_per_hour=max_cost_per_hour)
        limits = self._lanes.limits
        if max_workers is not None:
            check_integers(1, max_workers=max_workers)
            limits = replace(limits, max_workers=max_workers)
        if max_cost_per_hour is not None:
            limits = replace(limits, max_cost_per_hour=max_cost_per_hour)
        self._client.fleets.know(self._lanes.set_limits(limits))

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
        self._refuse_more_than_may_run(number)
        so_far = Prepared(0)
        try:
            with showing(number) as show:

                def tell(prepared: Prepared) -> None:
                    nonlocal so_far
                    so_far = prepared
                    show(prepared)

                self._stock.prepare(self._lane, number, timeout, tell)
        except BaseException as exc:
            if so_far.made or isinstance(exc, KeyboardInterrupt):
                log.warning(tell_of_machines(so_far, None if self._local else self._settings.app))
            raise

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
        self._check_function(fn)
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
        futures = self._client.stop_sending()
        if cancel_futures:
            self._client.cancel_all(futures)
        if wait:
            concurrent.futures.wait(futures)
            self._life.close()
        else:
            self._client.close_when_drained(self._life.close_local)

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
                self._end_interrupted()
                raise
        else:
            self._end_interrupted()

    def _end_interrupted(self) -> None:
        try:
            # Those of others, to which this one has only attached, are not ours to cancel.
            futures = [future for future in self._client.stop_sending() if not future.attached]
            self._client.cancel_all(futures)
            left = [future for future in futures if not future.done()]
            cancelled = sum(future.cancelled() for future in futures)  # others may have ended by themselves meanwhile
            if cancelled or left:
                name = self._local.name if self._local else None
                log.warning(tell_of_calls(cancelled, left, own_local=self._life.own_local, local_name=name))
            # A signal that comes just before CPython begins to wait for a lock does not end that wait.
            while concurrent.futures.wait(left, INTERRUPTED_WITHIN).not_done:
                pass
        finally:
            self._life.close()

    def _submit(
        self,
        fn: "Callable[..., Any] | pickles.Pickled | pickles.PartReference",
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Options,
        *,
        keep: bool = True,
        call_id: str = "",
        name: str | None = None,
        parts: Sequence[Part] = (),
        take: Callable[[int, int, bytes], None] | None = None,
    ) -> FlyFuture[Any]:
        if not (callable(fn) or isinstance(fn, pickles.Pickled | pickles.PartReference)):
            raise TypeError(f"{fn!r} is not callable: give submit the function and its arguments apart")
        self._client.refuse_if_closed()
        call_id = call_id or self._trust.new_call_id(options.key)
        name = options.name_call(fn) if name is None else name
        try:
            with pickles.shipping(options.ship):
                dumped = pickles.dump_call(fn, args, kwargs, options.manner(streams=take is not None))
            pickles.check_size(dumped, "the call with its arguments", options.max_payload)
        except Exception as exc:  # noqa: BLE001 - user code pickles itself and may raise anything
            return self._client.failed(call_id, name, exc)
        bigger = self._lanes.larger(self._client.fleets.know) if options.retry.on_oom == "bigger" else ()
        terms = new_terms(
            (self._lane.name, *bigger),
            result_ttl=self._client.result_ttl,
            retries=options.retry.lost,
            timeout=options.timeout or 0.0,
            expires=options.expires or 0.0,
            # An id that no key has given is new at each submit: no further random bytes are asked of the system.
            nonce=bytes.fromhex(call_id)[:NONCE_BYTES] if options.key is None else b"",
        )
        call = Call(
            call_id,
            self._trust.seal_call(call_id, terms, dumped.body, dumped.encoding),
            options.retry.lost,
            keep,
            expires=terms.expires,
            expired=self._seal_expired(call_id, name, terms) if terms.expires else b"",
            keyed=options.key is not None,
            pointers=self._trust.pointers(options.key) if options.key is not None else (),
            bigger=bigger,
            parts=parts,
            name=name,
            nonce=terms.nonce,
        )
        return self._client.send(call, self._lane, take=take)

    def _check_id(self, call_id: str, what: str) -> None:
        self._client.attaching.check_id(call_id, what, remedy=_remedy_for_unknown(self._local) if self._local else "")

    def _check_function(self, fn: Callable[..., Any]) -> None:
        """What can't be the function of a fan-out or a stream is refused at once, and so is each one after shutdown."""
        if not callable(fn):
            raise TypeError(f"{fn!r} is not callable: give the function first")
        if self._options.key is not None:
            raise ValueError(f"key={self._options.key!r} names one call with one outcome: it is for submit only")
        self._client.refuse_if_closed()

    def _fan_out(self, fn: Callable[..., Any], items: Iterator[Any], sizes: Sizes, return_exceptions: bool) -> FanOut:
        self._check_function(fn)
        sharing = Sharing(fn, self._trust, self._options, drop=self._client.drop_part)
        name = self._options.name_call(fn)  # a chunk has another function

        def send(
            fn: Callable[..., Any], args: Sequence[Any], options: Options, parts: Sequence[Part]
        ) -> FlyFuture[Any]:
            return self._submit(fn, args, {}, options, keep=False, name=name, parts=parts)

        return FanOut(
            items, sharing, sizes, self._options, send, self._client.cancel_all, return_exceptions=return_exceptions
        )

    def _refuse_inside(self, **told: bool) -> None:
        """Raises SettingsError that names what needs other machines, inside a machine."""
        wanted = [name for name, is_so in told.items() if is_so]
        if wanted and not self._settings.token:
            raise SettingsError(f"{', '.join(wanted)}: inside a machine nobody can start other machines")

    def _refuse_more_than_may_run(self, number: int) -> None:
        most, wanted = self._lane.max_workers, self._lanes.limits.max_workers
        if number > most:
            why = f"max_workers is {wanted}, and no more machines"
            if most < wanted:
                why = f"max_cost_per_hour lets {most} of max_workers={wanted}, and no more machines"
            raise SettingsError(f"number is {number}: {why} run at a time: prepare up to {most}, or raise that limit")

    def _seal_expired(self, call_id: str, name: str, terms: CallTerms) -> bytes:
        called = label(call_id, name)
        error = NotStartedError(f"no worker began the call {called} within {terms.expires:g} s (expires): it never ran")
        # Nobody may be there to notice it for as long as the call is kept.
        answer = answer_to(terms._replace(result_ttl=UNFINISHED_TTL + terms.result_ttl), State.FAILED)
        return self._trust.seal_outcome(call_id, 0, answer, plain.dump(error), Encoding.TEXT)


class _Life:
    """What ends with an executor, and with all that `with_options` has made of it."""

    def __init__(self, client: Client, close_local: Callable[[], None] | None, *, own_local: bool) -> None:
        self.own_local = own_local
        self.close_local = close_local = close_local or (lambda: None)
        self._client = client
        # An executor that nobody holds any longer still delivers what it has sent, and then ends its threads.
        weakref.finalize(self, client.close_when_drained, close_local).atexit = False

    def close(self) -> None:
        """End everything."""
        self._client.close()
        self.close_local()


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


def _lane_of_this_machine(settings: Settings) -> Lane:
    # Others see to the machines.
    return Lane(settings.lane, config={}, regions=settings.regions, max_workers=0, concurrency=1, boot_timeout=120.0)


def _find_local(local: "bool | str | LocalFly | None") -> LocalFly | None:
    if local is None or local is False or isinstance(local, LocalFly):
        return local or None
    try:
        return LocalFly(name=None if local is True else local)
    except LocalError as exc:
        raise SettingsError(f"local={local!r} is not possible here: {exc}") from None


def _remedy_for_unknown(local: LocalFly) -> str:
    if local.name is None:
        return (
            ". This local Fly is used by this process alone: "
            'local="name" is one for all processes of this computer that say that name'
        )
    if local.keep is None:
        return f'. The calls of a local Fly end with it, unless it is a LocalFly(name={local.name!r}, keep="folder")'
    return ""
