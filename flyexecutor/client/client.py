"""The client wires outbox, watcher, fleets and attaches, ends them, and remakes them after a fork.

One per executor and process. Parts that stand beside each other do not know each other: they meet here, by callbacks.
"""

import atexit
import functools
import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from flyexecutor.call import Call, CallInfo, Part
from flyexecutor.client.attaching import AT_ONCE, Attaching
from flyexecutor.client.fleets import Fleets
from flyexecutor.client.future import FlyFuture
from flyexecutor.client.outbox import Outbox
from flyexecutor.client.threads import Threads
from flyexecutor.client.watcher import Watcher
from flyexecutor.errors import FlyExecutorError, MachineStartError, RedisUnavailableError
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
ON_ITS_WAY = (
    2.0  # seconds that who cancels waits for calls that are just being sent: in between nobody can take them back
)
_USUAL_PRICES = Prices()

log = logging.getLogger("flyexecutor")


class Client:
    """What an executor stands on. The `Control` of its futures.

    Without a token it has no fleet: inside a machine, where others start what its calls need. More than a dozen
    attributes, since each part that it wires is one, and hardly anything else.
    """

    def __init__(
        self, settings: Settings, lane: Lane, trust: Trust, *, result_ttl: float, prices: Prices = _USUAL_PRICES
    ) -> None:
        self._settings = settings
        self._prices = prices
        # Those that calls of this client use or may go to, and the same under the other keys of the ring.
        self._lanes = {known.name: known for known in (lane, *lane.others)}
        self._trust = trust
        self.result_ttl = result_ttl
        self.closed = False  # no further call is taken
        self._wire()
        _clients.add(self)

    def _wire(self) -> None:
        self._id = secrets.token_hex(8)
        # No thread is started, and nothing is waited for, while it is held: see threads.py. An RLock: a finaliser may
        # submit while its thread is here. It guards `_futures`, `closed` (no call is sent after the last was waited
        # for), `_broken`, and the attaches that Redis has not answered.
        self._gate = threading.RLock()
        self._futures: weakref.WeakValueDictionary[str, FlyFuture[object]] = weakref.WeakValueDictionary()
        self._broken: FlyExecutorError | None = None  # why no call can come to anything any more
        settings = self._settings
        self.store = Store(settings.redis_url, settings.app)
        self.machines = MachinesClient(settings.api_url, settings.app, settings.token, secrets=settings.secrets)
        self.lists = Lists(self.store, self.machines, self._trust)
        self._threads = Threads(died=self._break, all_ended=self._disconnect)
        self.fleets = Fleets(self._lanes, self._make_fleet if settings.token else None, self._threads)
        self._outbox = Outbox(
            self.store,
            client=self._id,
            result_ttl=self.result_ttl,
            stored=self.fleets.start_soon,
            failed=self._not_stored,
        )
        self._watcher = Watcher(
            self.store,
            self._trust,
            client=self._id,
            result_ttl=self.result_ttl,
            unsent=self._is_unsent,
            moved=self.fleets.tend,
            same=self._is_same,
            waiting=self._tell_waiting,
        )
        self.attaching = Attaching(
            self.store,
            self._trust,
            self._watcher,
            client=self._id,
            gate=self._gate,
            futures=self._futures,
            new_future=functools.partial(self._new_future, attached=True),
            refuse_if_broken=self._refuse_if_broken,
            listen=self._threads.start,
            tend=self.fleets.tend,
        )
        self._threads.add(self._outbox.run, "outbox")
        self._threads.add(self._watcher.run, "watcher")

    # The way of a call

    def send(
        self, call: Call, lane: Lane, *, take: Callable[[int, int, bytes], None] | None = None
    ) -> FlyFuture[object]:
        """Register a call's future and hand the call to the outbox; never touches the network.

        take: gets what the call yields, as `Watcher.expect_items` tells. Raises RuntimeError once closed.
        """
        refused = None
        self._threads.start()
        lane = self.fleets.ready(lane)
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
            if call.keyed:
                self.attaching.overtake(future)
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
        self._refuse_if_broken()

    def _refuse_if_broken(self) -> None:
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
        self._refuse_if_broken()
        self.fleets.secure(deadline)

    def leave_running(self) -> None:
        """Before the process exits: see that what was submitted is stored, and has a machine that will run it."""
        self._outbox.flush(EXIT_FLUSH)
        self.fleets.leave_running(time.monotonic() + EXIT_STARTS)

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

    def close(self) -> None:
        """End the threads; the last closes the connections. What is pending ends with an error that says so."""
        _clients.discard(self)
        self._end()

    def _end(self, error: FlyExecutorError | None = None) -> None:
        """error: why nothing can come to anything any more; else what is in the outbox is sent."""
        with self._threads.ending():
            self._outbox.close(error)
            self.fleets.close()
            self._watcher.close(error)

    def _disconnect(self) -> None:
        self.store.close()
        self.machines.close()

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
        self._threads.start()
        self._watcher.when_drained(close)

    def batch(self, batch_id: str) -> list[tuple[str, State | None]]:
        """See `Attaching.batch`. For who keeps it over a fork: the child asks over connections of its own."""
        return self.attaching.batch(batch_id)

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
        info = self.store.info(call_id)
        if info is None and not unsent and (other := self.attaching.other_id(call_id)):
            info = self.store.info(other)  # the watcher is about to hear of that
        if info is None:
            return CallInfo(State.QUEUED, 0) if unsent else None
        lane = self._lanes.get(info.lane)
        if lane is None or info.run_seconds is None:
            return info
        price = self._prices.per_second_of(lane.config, info.region)
        return info if price is None else replace(info, dollars=info.run_seconds * price / lane.concurrency)

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

    def _make_fleet(self, lane: Lane) -> Fleet:
        return Fleet(
            self.store,
            self.machines,
            self.lists,
            lane,
            client=f"{self._id}.{lane.name}",
            known=self.fleets.used,
            busy_since=lambda: self._watcher.busy_since,
            is_vouched=self._trust.is_vouched,
            failed=self._no_machine,
        )

    def _is_same(self, call_id: str, other: str) -> None:
        with self._gate:  # no attach to the other is begun meanwhile
            if future := self._watcher.rename(call_id, other):
                self._futures[other] = future

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
        text = plain.dump(error)
        # Whoever has attached to a call does not know its nonce.
        terms = answer_to(UNREAD._replace(result_ttl=self.result_ttl), State.FAILED)
        waiting = [future.id for future in self._watcher.pending()]
        sealed = [(call_id, self._trust.seal_outcome(call_id, 0, terms, text, Encoding.TEXT)) for call_id in waiting]
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
