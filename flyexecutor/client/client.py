"""The client wires outbox, watcher and fleets, starts their threads, ends them, and remakes them after a fork.

One per executor and process. Level-5 siblings do not know each other: they meet here, through callbacks.
"""

import atexit
import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from flyexecutor.call import Call, CallInfo, Part
from flyexecutor.client.future import FlyFuture
from flyexecutor.client.outbox import Outbox
from flyexecutor.client.watcher import Watcher
from flyexecutor.errors import (
    ExpiredCallError,
    FlyExecutorError,
    MachineStartError,
    RedisUnavailableError,
    UnknownCallError,
)
from flyexecutor.fleet.api import MachinesClient
from flyexecutor.fleet.fleet import Fleet
from flyexecutor.fleet.guests import Prices
from flyexecutor.fleet.lists import Lists
from flyexecutor.lane import Lane
from flyexecutor.payload import plain
from flyexecutor.payload.trust import Encoding, Trust
from flyexecutor.settings import Settings
from flyexecutor.states import State
from flyexecutor.store.calls import Store
from flyexecutor.terms import UNREAD, answer_to
from flyexecutor.worker import context

EXIT_FLUSH = 5.0  # seconds that a plain exit of the interpreter waits for the outbox,
EXIT_STARTS = 10.0  # and then for the machines that its calls need to be asked for
AT_ONCE = 500  # calls in one script
ON_ITS_WAY = (
    2.0  # seconds that who cancels waits for calls that are just being sent: in between nobody can take them back
)
# Seconds after submit_batch in which its calls reach Redis, if they ever do: the outbox gives up in 60.
STORED_WITHIN = 300.0
_USUAL_PRICES = Prices()

log = logging.getLogger("flyexecutor")


@dataclass(frozen=True, slots=True)
class Flight:
    """An attach that Redis has not answered: who asks for the same call meanwhile waits for it."""

    future: FlyFuture[object]  # for the watcher; nobody else has it before it has landed
    # The future, or why there is none; None: whoever asked was interrupted, so that another one has to.
    landed: Future[FlyFuture[object] | None] = field(default_factory=Future)


class Client:
    """What an executor stands on. The `Control` of its futures.

    Without a token it has no fleet: inside a machine, where others start what its calls need.
    """

    def __init__(
        self, settings: Settings, lane: Lane, trust: Trust, *, result_ttl: float, prices: Prices = _USUAL_PRICES
    ) -> None:
        self._settings = settings
        self._prices = prices
        self._lane = lane
        # Those that calls of this client use or may go to, and the same under the other keys of the ring.
        self._lanes = {one.name: one for one in (lane, *lane.others)}
        self._trust = trust
        self.result_ttl = result_ttl
        self.closed = False  # no further call is taken
        self._wire()
        _clients.add(self)

    def _wire(self) -> None:
        self._id = secrets.token_hex(8)
        # No thread is started, and nothing is waited for, while one of these is held: under gevent another greenlet
        # would run then, and a lock that was made before gevent patched the module stops them all.
        # An RLock: a finaliser may submit while its thread is here. It guards the three below.
        self._gate = threading.RLock()
        # `closed`: no call is sent after the last was waited for.
        self._futures: weakref.WeakValueDictionary[str, FlyFuture[object]] = weakref.WeakValueDictionary()
        self._flights: dict[str, Flight] = {}  # attaches that Redis has not answered yet
        # Guards the three below and `_unstarted`; again by a finaliser that runs inside.
        self._starting = threading.RLock()
        self._threads = 0  # that run
        self._ended = False
        self._fleets: dict[str, Fleet] = {}
        settings = self._settings
        self.store = Store(settings.redis_url, settings.app)
        self.machines = MachinesClient(settings.api_url, settings.app, settings.token, secrets=settings.secrets)
        self.lists = Lists(self.store, self.machines, self._trust)
        self._outbox = Outbox(
            self.store,
            client=self._id,
            result_ttl=self.result_ttl,
            stored=self._start_soon,
            failed=self._not_stored,
        )
        self._watcher = Watcher(
            self.store,
            self._trust,
            client=self._id,
            result_ttl=self.result_ttl,
            unsent=self._is_unsent,
            moved=self._tend_lane,
            same=self._is_same,
            waiting=self._tell_waiting,
        )
        self._unstarted = [(self._outbox.run, "outbox"), (self._watcher.run, "watcher")]  # what has no thread yet
        self._broken: FlyExecutorError | None = None  # why no call can come to anything any more

    # The way of a call

    def send(
        self, call: Call, lane: Lane, *, take: Callable[[int, int, bytes], None] | None = None
    ) -> FlyFuture[object]:
        """Register a call's future and hand the call to the outbox; never touches the network.

        take: gets what the call yields, as `Watcher.expect_items` tells. Raises RuntimeError once closed.
        """
        lane = self._lanes.get(lane.name, lane)  # its limits may have changed
        refused = None
        self._start_threads()
        for one in (lane, *lane.others):
            self._fleet_of(one.name)
        with self._gate:
            self.refuse_if_closed()
            known = self._futures.get(call.id) if call.keyed else None
            if known is not None and not known.ended_unsent():
                return known
            future = self._futures[call.id] = self._new_future(
                call.id,
                call.name,
                keep=call.keep,
                nonce=b"" if call.keyed else call.nonce,  # with a key it may be another's submit that is answered
            )
            if flight := self._flights.pop(call.id, None):
                flight.landed.set_result(future)  # and the watcher gives it what that attach is told
            if take:
                self._watcher.expect_items(call.id, take)
            self._watcher.expect(future)
            try:
                self._outbox.put(call, lane)
            except RedisUnavailableError as exc:
                refused = exc
        if refused:
            self._watcher.fail([call.id], refused)  # not under the lock: others may have the future, and callbacks
        return future

    def refuse_if_closed(self) -> None:
        """Raises RuntimeError, worded as in CPython."""
        if not _interpreter_runs:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self._broken:
            raise self._broken

    def stop_sending(self) -> list[FlyFuture[object]]:
        """Take no further call; answers the futures that have not ended."""
        with self._gate:
            self.closed = True
            return self._watcher.pending()

    def failed(self, call_id: str, name: str, exc: Exception) -> FlyFuture[object]:
        """The future of a call that could not be pickled."""
        future = self._new_future(call_id, name)
        future.set_exception(exc)
        with self._gate:
            self._futures.setdefault(call_id, future)  # the id of a key may be that of a call that goes well
        return future

    def flush(self, timeout: float | None) -> None:
        """See `FlyMachineExecutor.flush`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self._outbox.flush(timeout)
        if self._broken:
            raise self._broken
        for fleet in list(self._fleets.values()):
            fleet.secure(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def leave_running(self) -> None:
        """Before the process exits: see that what was submitted is stored, and has a machine that will run it."""
        self._outbox.flush(EXIT_FLUSH)
        deadline = time.monotonic() + EXIT_STARTS
        for fleet in list(self._fleets.values()):
            # One machine is enough for the calls to be run; with all that are owed they run sooner.
            if not fleet.settle(max(0.0, deadline - time.monotonic())):
                log.warning("some machines were not asked for before the exit: calls may run later than they could")
            try:
                fleet.secure(max(0.0, deadline - time.monotonic()))
            except MachineStartError as exc:
                log.warning("%s", exc)

    def attach(self, call_id: str, patience: float = 0.0) -> FlyFuture[object]:
        """See `FlyMachineExecutor.future`. patience: seconds in which the call may yet come to Redis."""
        self.check_id(call_id, "call")
        try:
            return self._attach(call_id, patience)
        except ExpiredCallError:
            other = self._other_id(call_id)
            if other is None:
                raise
            return self._attach(other)

    def _other_id(self, call_id: str) -> str | None:
        """Under which id a call with a key is there that is not there under this one."""
        return self._trust.follow(call_id, self.store.pointer(call_id))

    def _attach(self, call_id: str, patience: float = 0.0) -> FlyFuture[object]:
        with self._gate:
            if self._broken:
                raise self._broken
            known = self._futures.get(call_id)
            if known is not None and not known.unheard:
                return known
            others = self._flights.get(call_id)
            if others is None:
                flight = Flight(self._new_future(call_id, attached=True))
                flight.future.comes_by = time.monotonic() + patience if patience > 0 else 0.0
                # Expected before it is asked for: the outcome may come in between.
                self._watcher.expect(flight.future)
                self._flights[call_id] = flight  # last: an interrupt before that leaves none that never lands
        if others is not None:
            return others.landed.result() or self._attach(call_id, patience)
        try:
            self._ask_for(flight.future)
        except BaseException as exc:
            self._land(flight, exc)
            if not isinstance(exc, FlyExecutorError):
                raise
        else:
            self._land(flight)
        return flight.landed.result() or flight.future

    def _land(self, flight: Flight, error: BaseException | None = None) -> None:
        """An attach has its answer: give it to all who wait for it."""
        with self._gate:
            if flight.landed.done():
                return  # a submit with the same key was faster
            future = flight.future
            del self._flights[future.id]
            if error is None:
                self._futures[future.id] = future
                flight.landed.set_result(future)
            elif isinstance(error, FlyExecutorError):
                self._watcher.fail([future.id], error)  # nobody has it, but a shutdown may wait for it
                flight.landed.set_exception(error)
            else:
                self._watcher.fail([future.id], FlyExecutorError(f"the attach to {future.id} was interrupted"))
                flight.landed.set_result(None)

    def _ask_for(self, future: FlyFuture[object]) -> None:
        """Tell the watcher what Redis knows of a call, and have Redis tell it the rest."""
        call_id = future.id
        found = self.store.attach(call_id, self._id)
        if found is None and future.comes_by:
            self._start_threads()  # the watcher asks again
            self._watcher.fail_if_closed()
            return
        if found is None:
            raise ExpiredCallError(
                f"the call {call_id} is no longer known: its outcome was kept for a time (result_ttl) and has expired"
            )
        future.name, future.comes_by = found.info.name, 0.0
        if found.progress:
            self._watcher.progress(call_id, found.progress)
        if found.outcome:
            self._watcher.resolve(found.outcome)
        else:
            self._start_threads()
            self._tend_lane(found.lane)
            self._watcher.fail_if_closed()

    def batch(self, batch_id: str) -> list[tuple[str, State | None]]:
        """The calls of a batch with their states, as Redis says; None for one that it does not know."""
        ids = self._trust.calls_of_batch(batch_id)
        some = (ids[at : at + AT_ONCE] for at in range(0, len(ids), AT_ONCE))
        return [pair for part in some for pair in zip(part, self.store.listing.states(part), strict=True)]

    def attach_batch(self, batch_id: str) -> list[FlyFuture[object]]:
        """See `FlyMachineExecutor.batch`."""
        self.check_id(batch_id, "batch")
        calls = self.batch(batch_id)
        # The calls are stored in their order: behind the last one that is there they may still be on their way.
        stored = max((n for n, (_, state) in enumerate(calls, start=1) if state), default=0)
        patience = min(STORED_WITHIN, self._trust.made_at(batch_id) + STORED_WITHIN - time.time())  # our clock may lag
        if calls and not stored and patience <= 0:
            raise ExpiredCallError(f"the batch {batch_id} is no longer known: it was kept for a time and has expired")
        futures = []
        for n, (call_id, state) in enumerate(calls):
            comes = state or (patience > 0 and n >= stored) or call_id in self._futures
            try:
                futures.append(self.attach(call_id, patience) if comes else self._expired(call_id))
            except ExpiredCallError:  # just now
                futures.append(self._expired(call_id))
        return futures

    def check_id(self, its_id: str, what: str, *, remedy: str = "") -> None:
        """Raises UnknownCallError for the id of a call, or of a batch, that was never made with our key; TypeError."""
        if not isinstance(its_id, str):
            raise TypeError(f"{what}_id is {its_id!r}: it must be a text, the id of a {what}")
        is_call, is_batch = self._trust.knows(its_id), self._trust.knows_batch(its_id)
        if is_call if what == "call" else is_batch:
            return
        if is_call:
            raise UnknownCallError(f"{its_id} is the id of a call, not of a batch: use future(id)")
        if is_batch:
            raise UnknownCallError(f"{its_id} is the id of a batch, not of a call: use batch(id)")
        app = self._settings.app
        raise UnknownCallError(
            f"no {what} has the id {its_id!r} in the app {app!r}, or it was signed with another key{remedy}"
        )

    def _expired(self, call_id: str) -> FlyFuture[object]:
        """The future of a call whose outcome is no longer kept."""
        future = self._new_future(call_id)
        future.set_exception(
            ExpiredCallError(
                f"the outcome of the call {call_id} has expired (result_ttl), or it was never stored: it was "
                "taken back before, or could not be pickled"
            )
        )
        return future

    def cancel_all(self, futures: Iterable[FlyFuture[object]]) -> None:
        """Take back what no worker has claimed; a round trip for some hundred of them."""
        left = []
        for future in futures:
            if self._outbox.take_back(future.id):
                self._watcher.cancelled(future.id)
            elif not future.done():
                left.append(future.id)
        self._outbox.await_sent(left, ON_ITS_WAY)
        try:
            for at in range(0, len(left), AT_ONCE):
                for call_id in self.store.cancel(left[at : at + AT_ONCE]):
                    self._watcher.cancelled(call_id)
        except RedisUnavailableError as exc:
            log.warning("can't cancel now: %s", exc)

    def drop_part(self, part: Part) -> None:
        """Remove what calls shared that have all ended."""
        self._outbox.drop_part(part)

    def know_lanes(self, lanes: Iterable[Lane]) -> None:
        """Lanes that calls of this client use, or may go to when they run out of memory; with new limits, perhaps."""
        for one in (one for lane in lanes for one in (lane, *lane.others)):
            self._lanes[one.name] = one
            if fleet := self._fleets.get(one.name):
                fleet.change_lane(one)

    def close(self) -> None:
        """End the threads; the last closes the connections. What is pending ends with an error that says so."""
        _clients.discard(self)
        self._end()

    def _end(self, error: FlyExecutorError | None = None) -> None:
        """error: why nothing can come to anything any more; else what is in the outbox is sent."""
        self._outbox.close(error)
        with self._starting:
            self._ended = True
            self._threads += 1  # this one
        for fleet in self._fleets.values():
            fleet.close()
        self._watcher.close(error)
        self._thread_ended()

    def close_when_drained(self, then: Callable[[], None]) -> None:
        """Close as soon as no submitted call is pending, and call `then`; in the watcher's thread, so that a
        finaliser may ask for it.
        """

        def close() -> None:
            self.close()
            then()

        if self._broken:
            close()
            return
        self._start_threads()
        self._watcher.when_drained(close)

    # What futures ask for

    def take_back(self, call_id: str) -> bool:
        """Cancel, if it is still queued; False as well if Redis does not answer."""
        try:
            taken = self._outbox.take_back(call_id) or bool(self.store.cancel([call_id]))
        except RedisUnavailableError as exc:
            log.warning("can't cancel now: %s", exc)
            return False
        if taken:
            self._watcher.cancelled(call_id)
        return taken

    def info(self, call_id: str) -> CallInfo | None:
        """How a call stands; None if Redis does not know it."""
        unsent = self._outbox.holds(call_id)  # or it is stored, and has perhaps ended, but the outbox was not told yet
        told = self.store.info(call_id)
        if told is None and not unsent and (other := self._other_id(call_id)):
            told = self.store.info(other)  # the watcher is about to hear of that
        if told is None:
            return CallInfo(State.QUEUED, 0) if unsent else None
        lane = self._lanes.get(told.lane)
        if lane is None or told.run_seconds is None:
            return told
        price = self._prices.per_second_of(lane.config, told.region)
        return told if price is None else replace(told, dollars=told.run_seconds * price / lane.concurrency)

    def kill(self, call_id: str) -> State | None:
        """Have a call stopped."""
        return self.store.kill(call_id)

    def logs(self, call_id: str) -> bytes:
        """What a call has printed."""
        return self.store.logs(call_id)

    # Within

    def _new_future(
        self, call_id: str, name: str = "", *, keep: bool = True, attached: bool = False, nonce: bytes = b""
    ) -> FlyFuture[object]:
        return FlyFuture(call_id, self, keep=keep, attached=attached, name=name, nonce=nonce)

    def _start_threads(self) -> None:
        while self._unstarted:
            with self._starting:
                if not self._unstarted:
                    return
                run, name = self._unstarted.pop(0)
            try:
                self._start_thread(run, name)
            except BaseException:
                self._unstarted.insert(0, (run, name))  # there may be room for a thread when the next call comes
                raise

    def _start_thread(self, run: Callable[[], None], name: str) -> None:
        def run_and_end() -> None:
            try:
                run()
            except BaseException as exc:  # noqa: BLE001 - whatever it was: futures wait for this thread
                self._break(name, exc)
            finally:
                self._thread_ended()

        with self._starting:
            self._threads += 1
        # Daemons: an interpreter that exits does not wait for outcomes; see leave_running.
        try:
            threading.Thread(target=run_and_end, name=f"flyexecutor {name}", daemon=True).start()
        except BaseException:
            self._thread_ended()
            raise

    def _break(self, name: str, exc: BaseException) -> None:
        """A thread has died, which none should. Nobody is to wait for it."""
        what = (
            f"the {name} thread of the executor has died ({exc!r}): its calls may run on, attach to them with a new one"
        )
        log.critical("%s", what, exc_info=exc)
        error = FlyExecutorError(what)
        with self._gate:  # who sends either finds this, or is found among the pending
            self._broken = error
        self._end(error)

    def _thread_ended(self) -> None:
        with self._starting:
            self._threads -= 1
            last = self._ended and not self._threads
        if last:
            self.store.close()
            self.machines.close()

    def _fleet_of(self, name: str) -> Fleet | None:
        lane = self._lanes.get(name)
        if lane is None or not self._settings.token:
            return None  # another client's, or nobody here may start machines
        with self._starting:
            known = self._fleets.get(name)
            if known or self._ended:
                return known
            fleet = self._fleets[name] = Fleet(
                self.store,
                self.machines,
                self.lists,
                lane,
                client=f"{self._id}.{name}",
                known=self._used_lanes,
                needed=lambda: self._watcher.busy,
                failed=self._no_machine,
            )
            self._unstarted.append((fleet.run, "fleet"))
        self._start_threads()
        return fleet

    def _used_lanes(self) -> set[str]:
        lanes = list(self._lanes.values())
        return {lane.name for lane in lanes} - {other.name for lane in lanes for other in lane.others}

    def _tend_lane(self, name: str) -> None:
        """A call has gone to another lane: see that it has a machine there."""
        fleet = self._fleet_of(name)
        if fleet:
            fleet.start_soon(())

    def _is_same(self, call_id: str, other: str) -> None:
        with self._gate:  # no attach to the other is begun meanwhile
            if future := self._watcher.rename(call_id, other):
                self._futures[other] = future

    def _start_soon(self, lane: Lane, reservations: Sequence[str]) -> None:
        fleet = self._fleets.get(lane.name)
        if fleet:
            fleet.start_soon(reservations)
        for other in lane.others:
            if fleet := self._fleets.get(other.name):
                fleet.watch()

    def _is_unsent(self, call_id: str) -> bool:
        with self._gate:  # whoever sends it has told the watcher of it, and is about to put it into the outbox
            return self._outbox.holds(call_id)

    def _tell_waiting(self, call_id: str, waiting: bool) -> None:
        """Inside a call: the worker lets others run while this one waits for the calls that it has submitted."""
        if context.channel:
            context.channel.waits((self._id, call_id), waiting)

    def _not_stored(self, calls: Sequence[Call], error: FlyExecutorError) -> None:
        self._watcher.fail([call.id for call in calls], error)

    def _no_machine(self, lane: Lane, error: MachineStartError) -> None:
        """Fail the calls of a lane that still wait; those that a worker has are not touched."""
        told = plain.dump(error)
        # Whoever has attached to a call does not know its nonce.
        terms = answer_to(UNREAD._replace(result_ttl=self.result_ttl), State.FAILED)
        waiting = [future.id for future in self._watcher.pending()]
        sealed = [(call_id, self._trust.seal_outcome(call_id, 0, terms, told, Encoding.TEXT)) for call_id in waiting]
        for at in range(0, len(sealed), AT_ONCE):
            self.store.fail(lane.name, sealed[at : at + AT_ONCE])


_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()
_interpreter_runs = True  # so named that it is false, too, once the interpreter has cleared this module


def _remake_after_fork() -> None:
    # The child has none of the parent's threads, and may have its locks in any state: everything is made anew, and
    # nothing of the parent's (its futures, sockets, stream) is touched.
    for client in list(_clients):
        client._wire()


def _leave_running_at_exit() -> None:
    global _interpreter_runs  # noqa: PLW0603 - there is one interpreter
    _interpreter_runs = False
    for client in list(_clients):
        client.stop_sending()  # what came after the flush would be lost without a word
        try:
            client.leave_running()
        except FlyExecutorError as exc:
            log.error("calls that were submitted before the exit are not stored: %s", exc)


os.register_at_fork(after_in_child=_remake_after_fork)
atexit.register(_leave_running_at_exit)
