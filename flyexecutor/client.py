"""Level 6: the client wires outbox, watcher and fleet, starts their threads, ends them, and remakes them after a fork.

One per executor and process. Level-5 siblings do not know each other: they meet here, through callbacks.
"""

import atexit
import logging
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Sequence

from flyexecutor import plain
from flyexecutor.call import Call, Outcome, Standing
from flyexecutor.errors import (
    ExpiredCallError,
    FlyExecutorError,
    MachineStartError,
    RedisUnavailableError,
    UnknownCallError,
)
from flyexecutor.fleet import Fleet
from flyexecutor.future import FlyFuture
from flyexecutor.lane import Lane
from flyexecutor.machines import MachinesClient
from flyexecutor.outbox import Outbox
from flyexecutor.settings import Settings
from flyexecutor.states import State
from flyexecutor.store import Store
from flyexecutor.trust import Encoding, Trust
from flyexecutor.watcher import Watcher

EXIT_FLUSH = 5.0  # seconds that a plain exit of the interpreter waits for the outbox,
EXIT_STARTS = 10.0  # and then for the machines that its calls need to be asked for

log = logging.getLogger("flyexecutor")


class Client:
    """What an executor stands on."""

    def __init__(self, settings: Settings, lane: Lane, trust: Trust, *, result_ttl: float) -> None:
        self._settings = settings
        self._lane = lane
        self._trust = trust
        self._result_ttl = result_ttl
        self._wire()
        _clients.add(self)

    def _wire(self) -> None:
        self._id = secrets.token_hex(8)
        self._starting = threading.Lock()
        self._started = False
        self._attached: weakref.WeakValueDictionary[str, FlyFuture[object]] = weakref.WeakValueDictionary()
        settings = self._settings
        self._store = Store(settings.redis_url, settings.app)
        self._machines = MachinesClient(settings.api_url, settings.app, settings.token)
        self._outbox = Outbox(
            self._store,
            self._lane,
            client=self._id,
            result_ttl=self._result_ttl,
            stored=self._start_soon,
            failed=self._not_stored,
        )
        self._watcher = Watcher(self._store, self._trust, client=self._id, unsent=self._outbox.holds)
        self._fleet = Fleet(
            self._store,
            self._machines,
            self._lane,
            client=self._id,
            needed=lambda: self._watcher.busy,
            failed=self._no_machine,
        )

    # The way of a call

    def send(self, call: Call) -> FlyFuture[object]:
        """Register a call's future and hand the call to the outbox; never touches the network."""
        future = self._new_future(call.id, keep=call.keep, attached=False)
        self._start_threads()
        self._watcher.expect(future)
        try:
            self._outbox.put(call)
        except RedisUnavailableError as exc:
            self._watcher.fail([call.id], exc)
        return future

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
        if not self._fleet.settle(EXIT_STARTS):
            log.warning("some machines were not asked for before the exit: another client of the app will")

    def attach(self, call_id: str) -> FlyFuture[object]:
        """See `FlyMachineExecutor.future`."""
        if not self._trust.knows(call_id):
            raise UnknownCallError(
                f"no call has the id {call_id!r} in the app {self._settings.app!r} (or it was signed with another key)"
            )
        known = self._attached.get(call_id)
        if known is not None:
            return known
        future = self._new_future(call_id, keep=True, attached=True)
        # Expected before it is asked for: the outcome may come in between.
        self._watcher.expect(future)
        try:
            found = self._store.attach(call_id, self._id)
        except FlyExecutorError:
            self._watcher.drop(call_id)
            raise
        if found is None:
            self._watcher.drop(call_id)
            raise ExpiredCallError(
                f"the call {call_id} is no longer known: its outcome was kept for a time (result_ttl) and has expired"
            )
        if isinstance(found, Outcome):
            self._watcher.resolve(found)
        else:
            self._start_threads()
            self._fleet.start_soon(())
        return future

    def pending(self) -> list[FlyFuture[object]]:
        """The futures that have not ended."""
        return self._watcher.pending()

    def close(self) -> None:
        """End the threads and connections; what is pending ends with an error that says so."""
        _clients.discard(self)
        self._outbox.close()
        self._fleet.close()
        self._watcher.close()
        self._store.close()
        self._machines.close()

    def close_when_drained(self, then: Callable[[], None]) -> None:
        """Close as soon as no submitted call is pending, and call `then`; in the watcher's thread, so that a
        finaliser may ask for it.
        """

        def close() -> None:
            self.close()
            then()

        self._start_threads()
        self._watcher.when_drained(close)

    # Within

    def _new_future(self, call_id: str, *, keep: bool, attached: bool) -> FlyFuture[object]:
        future: FlyFuture[object] = FlyFuture(call_id, self._take_back, self._standing, keep=keep, attached=attached)
        self._attached[call_id] = future
        return future

    def _start_threads(self) -> None:
        with self._starting:
            if self._started:
                return
            self._started = True
            for part in (self._outbox, self._watcher, self._fleet):
                name = f"flyexecutor {type(part).__name__.lower()}"
                # Daemons: an interpreter that exits does not wait for outcomes; see leave_running.
                threading.Thread(target=part.run, name=name, daemon=True).start()

    def _take_back(self, call_id: str) -> bool:
        try:
            taken = self._outbox.take_back(call_id) or self._store.cancel(call_id)
        except RedisUnavailableError as exc:
            log.warning("can't cancel now: %s", exc)
            return False
        if taken:
            self._watcher.cancelled(call_id)
        return taken

    def _standing(self, call_id: str) -> Standing | None:
        if self._outbox.holds(call_id):
            return Standing(State.QUEUED, 0, "")
        return self._store.standing(call_id)

    def _start_soon(self, reservations: Sequence[str]) -> None:
        self._fleet.start_soon(reservations)

    def _not_stored(self, calls: Sequence[Call], error: RedisUnavailableError) -> None:
        self._watcher.fail([call.id for call in calls], error)

    def _no_machine(self, error: MachineStartError) -> None:
        """Fail the calls that still wait; those that a worker has are not touched."""
        told = plain.dump(error)
        waiting = [future.id for future in self._watcher.pending()]
        sealed = [(call_id, self._trust.seal_outcome(call_id, 0, told, Encoding.TEXT)) for call_id in waiting]
        for at in range(0, len(sealed), 500):
            self._store.fail(sealed[at : at + 500])


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
