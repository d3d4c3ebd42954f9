"""Level 6: the client wires outbox, watcher and fleets, starts their threads, ends them, and remakes them after a fork.

One per executor and process. Level-5 siblings do not know each other: they meet here, through callbacks.
"""

import atexit
import logging
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from flyexecutor import plain
from flyexecutor.call import Call, CallInfo, Part
from flyexecutor.errors import (
    ExpiredCallError,
    FlyExecutorError,
    MachineStartError,
    RedisUnavailableError,
    UnknownCallError,
)
from flyexecutor.fleet import Fleet
from flyexecutor.future import FlyFuture
from flyexecutor.guests import Prices, guest_of
from flyexecutor.lane import Lane
from flyexecutor.machines import MachinesClient
from flyexecutor.outbox import Outbox
from flyexecutor.settings import Settings
from flyexecutor.states import State
from flyexecutor.store import Store
from flyexecutor.trust import Encoding, Trust
from flyexecutor.watcher import Watcher
from flyexecutor.worker import context
from flyexecutor.worker.pipe import NESTED, Told

EXIT_FLUSH = 5.0  # seconds that a plain exit of the interpreter waits for the outbox,
EXIT_STARTS = 10.0  # and then for the machines that its calls need to be asked for
AT_ONCE = 500  # calls in one script
_USUAL_PRICES = Prices()

log = logging.getLogger("flyexecutor")


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
        self._lanes = {lane.name: lane}  # those that calls of this client use or may go to
        self._trust = trust
        self.result_ttl = result_ttl
        self.closed = False  # no further call is taken
        self._wire()
        _clients.add(self)

    def _wire(self) -> None:
        self._id = secrets.token_hex(8)
        # No thread is started, and nothing is waited for, while one of these is held: under gevent another greenlet
        # would run then, and a lock that was made before gevent patched the module stops them all.
        self._gate = (
            threading.Lock()
        )  # guards `closed` (no call is sent after the last was waited for), and that an id has one future
        self._starting = threading.RLock()  # guards the three below; again by a finaliser that runs inside
        self._started = False
        self._ended = False
        self._fleets: dict[str, Fleet] = {}
        self._telling = threading.Lock()  # guards the one below
        self._told_waiting = False
        self._attached: weakref.WeakValueDictionary[str, FlyFuture[object]] = weakref.WeakValueDictionary()
        settings = self._settings
        self.store = Store(settings.redis_url, settings.app)
        self.machines = MachinesClient(settings.api_url, settings.app, settings.token)
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
            waiting=self._tell_waiting,
        )

    # The way of a call

    def send(
        self, call: Call, lane: Lane, *, take: Callable[[int, int, bytes], None] | None = None
    ) -> FlyFuture[object]:
        """Register a call's future and hand the call to the outbox; never touches the network.

        take: gets what the call yields, as `Watcher.expect_items` tells. Raises RuntimeError once closed.
        """
        lane = self._lanes.get(lane.name, lane)  # its limits may have changed
        self._start_threads()
        self._fleet_of(lane.name)
        with self._gate:
            if call.keyed and (known := self._attached.get(call.id)):
                return known
            self.refuse_if_closed()
            future = self._new_future(call.id, keep=call.keep, attached=False)
            if take:
                self._watcher.expect_items(call.id, take)
            self._watcher.expect(future)
            try:
                self._outbox.put(call, lane)
            except RedisUnavailableError as exc:
                self._watcher.fail([call.id], exc)
        return future

    def refuse_if_closed(self) -> None:
        """Raises RuntimeError, worded as in CPython."""
        if self.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def stop_sending(self) -> list[FlyFuture[object]]:
        """Take no further call; answers the futures that have not ended."""
        with self._gate:
            self.closed = True
            return self._watcher.pending()

    def failed(self, call_id: str, exc: Exception) -> FlyFuture[object]:
        """The future of a call that could not be pickled."""
        future = self._new_future(call_id, keep=True, attached=False)
        future.set_exception(exc)
        return future

    def flush(self, timeout: float | None) -> None:
        """See `FlyMachineExecutor.flush`."""
        self._outbox.flush(timeout)

    def leave_running(self) -> None:
        """Before the process exits: see that what was submitted is stored, and has a machine that will run it."""
        self._outbox.flush(EXIT_FLUSH)
        settled = [fleet.settle(EXIT_STARTS) for fleet in self._fleets.values()]
        if not all(settled):
            log.warning("some machines were not asked for before the exit: another client of the app will")

    def attach(self, call_id: str) -> FlyFuture[object]:
        """See `FlyMachineExecutor.future`."""
        self.check_id(call_id, "call")
        with self._gate:
            known = self._attached.get(call_id)
            if known is not None:
                return known
            future = self._new_future(call_id, keep=True, attached=True)
            # Expected before it is asked for: the outcome may come in between.
            self._watcher.expect(future)
        try:
            found = self.store.attach(call_id, self._id)
            if found is None:
                raise ExpiredCallError(
                    f"the call {call_id} is no longer known: its outcome was kept for a time (result_ttl) and has "
                    "expired"
                )
        except FlyExecutorError as exc:
            self._attached.pop(call_id, None)
            self._watcher.fail([call_id], exc)  # another thread may have been given this future meanwhile
            raise
        if found.outcome:
            self._watcher.resolve(found.outcome)
        else:
            if found.progress:
                self._watcher.progress(call_id, found.progress)
            self._start_threads()
            self._tend_lane(found.lane)
        return future

    def batch(self, batch_id: str) -> list[tuple[str, State | None]]:
        """The calls of a batch that are stored, with their states; None for one that is no longer kept."""
        return self.store.batch(batch_id)

    def check_id(self, call_id: str, what: str) -> None:
        """Raises UnknownCallError for the id of a call, or of a batch, that was never made with our key."""
        if not self._trust.knows(call_id):
            raise UnknownCallError(
                f"no {what} has the id {call_id!r} in the app {self._settings.app!r}, or it was signed with another key"
            )

    def expired(self, call_id: str) -> FlyFuture[object]:
        """The future of a call whose outcome is no longer kept."""
        return self.failed(call_id, ExpiredCallError(f"the outcome of the call {call_id} has expired (result_ttl)"))

    def cancel_all(self, futures: Iterable[FlyFuture[object]]) -> None:
        """Take back what no worker has claimed; a round trip for some hundred of them."""
        left = []
        for future in futures:
            if self._outbox.take_back(future.id):
                self._watcher.cancelled(future.id)
            elif not future.done():
                left.append(future.id)
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
        for lane in lanes:
            self._lanes[lane.name] = lane
            if fleet := self._fleets.get(lane.name):
                fleet.change_lane(lane)

    def close(self) -> None:
        """End the threads and connections; what is pending ends with an error that says so."""
        _clients.discard(self)
        self._outbox.close()
        with self._starting:
            self._ended = True
        for fleet in self._fleets.values():
            fleet.close()
        self._watcher.close()
        self.store.close()
        self.machines.close()

    def close_when_drained(self, then: Callable[[], None]) -> None:
        """Close as soon as no submitted call is pending, and call `then`; in the watcher's thread, so that a
        finaliser may ask for it.
        """

        def close() -> None:
            self.close()
            then()

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
        if self._outbox.holds(call_id):
            return CallInfo(State.QUEUED, 0)
        told = self.store.info(call_id)
        lane = self._lanes.get(told.lane) if told else None
        if told is None or lane is None or told.run_seconds is None:
            return told
        price = self._prices.per_second(guest_of(lane.config), told.region)
        return told if price is None else replace(told, dollars=told.run_seconds * price / lane.concurrency)

    def kill(self, call_id: str) -> State | None:
        """Have a call stopped."""
        return self.store.kill(call_id)

    def logs(self, call_id: str) -> bytes:
        """What a call has printed."""
        return self.store.logs(call_id)

    # Within

    def _new_future(self, call_id: str, *, keep: bool, attached: bool) -> FlyFuture[object]:
        future: FlyFuture[object] = FlyFuture(call_id, self, keep=keep, attached=attached)
        self._attached[call_id] = future
        return future

    def _start_threads(self) -> None:
        with self._starting:
            if self._started:
                return
            self._started = True
        for part in (self._outbox, self._watcher):
            _start_thread(part.run, type(part).__name__.lower())
        self._fleet_of(self._lane.name)

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
                lane,
                client=f"{self._id}.{name}",
                needed=lambda: self._watcher.busy,
                failed=self._no_machine,
            )
        _start_thread(fleet.run, "fleet")
        return fleet

    def _tend_lane(self, name: str) -> None:
        """A call has gone to another lane: see that it has a machine there."""
        fleet = self._fleet_of(name)
        if fleet:
            fleet.start_soon(())

    def _start_soon(self, lane: Lane, reservations: Sequence[str]) -> None:
        fleet = self._fleets.get(lane.name)
        if fleet:
            fleet.start_soon(reservations)

    def _is_unsent(self, call_id: str) -> bool:
        with self._gate:  # whoever sends it has told the watcher of it, and is about to put it into the outbox
            return self._outbox.holds(call_id)

    def _tell_waiting(self) -> None:
        """Inside a call: the worker lets others run while this one waits for the calls that it has submitted."""
        if context.channel is None:
            return
        with self._telling:
            # Asked under the lock: whoever comes last tells what is true then.
            waiting = self._watcher.busy
            if waiting != self._told_waiting:
                self._told_waiting = waiting
                context.channel.tell(Told(NESTED, "", 0, number=int(waiting)))

    def _not_stored(self, calls: Sequence[Call], error: RedisUnavailableError) -> None:
        self._watcher.fail([call.id for call in calls], error)

    def _no_machine(self, lane: Lane, error: MachineStartError) -> None:
        """Fail the calls of a lane that still wait; those that a worker has are not touched."""
        told = plain.dump(error)
        waiting = [future.id for future in self._watcher.pending()]
        sealed = [(call_id, self._trust.seal_outcome(call_id, 0, told, Encoding.TEXT)) for call_id in waiting]
        for at in range(0, len(sealed), AT_ONCE):
            self.store.fail(lane.name, sealed[at : at + AT_ONCE])


def _start_thread(run: Callable[[], None], name: str) -> None:
    # Daemons: an interpreter that exits does not wait for outcomes; see leave_running.
    threading.Thread(target=run, name=f"flyexecutor {name}", daemon=True).start()


_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()


def _remake_after_fork() -> None:
    # The child has none of the parent's threads, and may have its locks in any state: everything is made anew, and
    # nothing of the parent's (its futures, sockets, stream) is touched.
    for client in list(_clients):
        client._wire()


def _leave_running_at_exit() -> None:
    for client in list(_clients):
        try:
            client.leave_running()
        except RedisUnavailableError as exc:
            log.error("calls that were submitted before the exit are not stored: %s", exc)


os.register_at_fork(after_in_child=_remake_after_fork)
atexit.register(_leave_running_at_exit)
