"""Attaching to calls and batches that somebody has submitted, here or elsewhere: one future for each call.

Owns no thread. Who attaches asks Redis in his own thread, once for all who ask for the same call meanwhile; the watcher
tells the rest. A submit with the same key may come first.
"""

import threading
import time
from collections.abc import Callable, MutableMapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from flyexecutor.client.future import FlyFuture
from flyexecutor.client.watcher import Watcher
from flyexecutor.errors import ExpiredCallError, FlyExecutorError, UnknownCallError
from flyexecutor.payload.trust import Trust
from flyexecutor.states import State
from flyexecutor.store.calls import Store

AT_ONCE = 500  # calls in one script
# Seconds after submit_batch in which its calls reach Redis, if they ever do: the outbox gives up in 60.
STORED_WITHIN = 300.0


@dataclass(frozen=True, slots=True)
class Flight:
    """An attach that Redis has not answered: who asks for the same call meanwhile waits for it."""

    future: FlyFuture[object]  # for the watcher; nobody else has it before it has landed
    # The future, or why there is none; None: whoever asked was interrupted, so that another one has to.
    landed: Future[FlyFuture[object] | None] = field(default_factory=Future)


class Attaching:
    """The attaches of one client."""

    def __init__(
        self,
        store: Store,
        trust: Trust,
        watcher: Watcher,
        *,
        client: str,
        gate: threading.RLock,
        futures: MutableMapping[str, FlyFuture[object]],
        new_future: Callable[[str], FlyFuture[object]],
        refuse_if_broken: Callable[[], None],
        listen: Callable[[], None],
        tend: Callable[[str], None],
    ) -> None:
        """gate: guards `futures`, which this client has, by their calls. listen: has the watcher hear what Redis tells.
        tend: sees that a lane's calls have a machine.
        """
        self._store = store
        self._trust = trust
        self._watcher = watcher
        self._client = client
        self._gate = gate
        self._futures = futures
        self._new_future = new_future
        self._refuse_if_broken = refuse_if_broken
        self._listen = listen
        self._tend = tend
        self._flights: dict[str, Flight] = {}  # guarded by the gate, too

    def attach(self, call_id: str, patience: float = 0.0) -> FlyFuture[object]:
        """See `FlyMachineExecutor.future`. patience: seconds in which the call may yet come to Redis."""
        self.check_id(call_id, "call")
        try:
            return self._attach(call_id, patience)
        except ExpiredCallError:
            other = self.other_id(call_id)
            if other is None:
                raise
            return self._attach(other)

    def other_id(self, call_id: str) -> str | None:
        """Under which id a call with a key is there that is not there under this one."""
        return self._trust.follow(call_id, self._store.pointer(call_id))

    def overtake(self, future: FlyFuture[object]) -> None:
        """A submit is faster than who attaches to the same key; under the gate. The watcher gives its future what that
        attach is told.
        """
        if flight := self._flights.pop(future.id, None):
            flight.landed.set_result(future)

    def batch(self, batch_id: str) -> list[tuple[str, State | None]]:
        """The calls of a batch with their states, as Redis says; None for one that it does not know."""
        ids = self._trust.calls_of_batch(batch_id)
        some = (ids[at : at + AT_ONCE] for at in range(0, len(ids), AT_ONCE))
        return [pair for part in some for pair in zip(part, self._store.listing.states(part), strict=True)]

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
        app = self._trust.app
        raise UnknownCallError(
            f"no {what} has the id {its_id!r} in the app {app!r}, or it was signed with another key{remedy}"
        )

    def _attach(self, call_id: str, patience: float = 0.0) -> FlyFuture[object]:
        with self._gate:
            self._refuse_if_broken()
            known = self._futures.get(call_id)
            if known is not None and not known.unheard:
                return known
            others = self._flights.get(call_id)
            if others is None:
                flight = Flight(self._new_future(call_id))
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
        found = self._store.attach(call_id, self._client)
        if found is None and future.comes_by:
            self._listen()  # the watcher asks again
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
            self._listen()
            self._tend(found.lane)
            self._watcher.fail_if_closed()

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
