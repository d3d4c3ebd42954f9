"""Step 5, afterwards: what a deploy has left is destroyed, once it rests and nobody uses its lane.

Owns a thread for each search, since no call shall wait for one: what is refused, or can't be asked for, stays for the
next. Only what is certain to be ours and of an earlier image goes (`policy.retire`); what somebody has prepared stays
until `reap`. `close` ends a search after the request that is under way. Killed: the next search finds the rest.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from flyexecutor.errors import MachinesError, RedisUnavailableError
from flyexecutor.fleet import policy
from flyexecutor.fleet.api import MachinesClient
from flyexecutor.fleet.machine import FAMILY_KEY, OWNER_KEY, Machine
from flyexecutor.lane import Lane
from flyexecutor.store.calls import Store

SEARCH_EVERY = 300.0  # seconds between two searches, of all clients together
UNUSED = 600.0  # seconds without a call, after which a lane of an earlier image is not used any longer

log = logging.getLogger("flyexecutor")


class Retirement:
    """The searches of one client for one lane."""

    def __init__(
        self,
        store: Store,
        machines: MachinesClient,
        client: str,
        *,
        known: Callable[[], Iterable[str]],
    ) -> None:
        self._store = store
        self._machines = machines
        self._client = client
        self._known = known  # the lanes that this client uses: none of them is another's earlier deploy
        self._search_at = 0.0  # monotonic; not before
        self._closed = False
        self._idle = threading.Event()  # cleared by the fleet's thread, set by ours
        self._idle.set()

    @property
    def busy(self) -> bool:
        """Whether a search is under way."""
        return not self._idle.is_set()

    def search_soon(self, lane: Lane, seen: Sequence[Machine]) -> None:
        """Search, unless somebody has done so of late. Returns at once. seen: the machines of the app."""
        if self.busy or time.monotonic() < self._search_at:
            return
        self._search_at = time.monotonic() + SEARCH_EVERY
        self._idle.clear()
        try:
            threading.Thread(target=self._search, args=(lane, seen), name="flyexecutor retire", daemon=True).start()
        except (RuntimeError, MemoryError):  # no thread can be had: there will be another time
            self._idle.set()

    def close(self) -> None:
        """Destroy no more."""
        self._closed = True

    def join(self) -> None:
        """Return when no search is under way."""
        self._idle.wait()

    def _search(self, lane: Lane, seen: Sequence[Machine]) -> None:
        try:
            metadata = [known_lane.config["metadata"] for known_lane in (lane, *lane.others)]
            kinds = [(words[OWNER_KEY], words[FAMILY_KEY]) for words in metadata]
            if not self._store.try_lock(f"retire:{metadata[0][FAMILY_KEY]}", self._client, SEARCH_EVERY):
                return
            used = frozenset({*self._known(), *self._store.lanes_since(UNUSED)})
            before = self._store.now() - UNUSED
            old = policy.retire(seen, kinds=kinds, lane=lane.name, used=used, rested_before=before)
            self._destroy([machine for machine in old if not machine.prepared])
            if stay := sum(machine.prepared for machine in old):
                log.info("prepared machines of an earlier image stay: %d; flyexecutor reap removes them", stay)
        except (MachinesError, RedisUnavailableError) as exc:
            log.info("machines of an earlier image stay for now: %s", exc)
        except BaseException:  # whatever it was, no call waits for this
            log.exception("machines of an earlier image stay for now")
        finally:
            self._idle.set()

    def _destroy(self, old: Sequence[Machine]) -> None:
        for machine in old:
            if self._closed:
                return
            try:
                self._machines.destroy(machine.id)  # not by force: one that was started meanwhile is refused
            except MachinesError as exc:
                log.info("machine %s is of an earlier image and stays for now: %s", machine.id, exc)
            else:
                log.info("machine %s is of an earlier image and is destroyed", machine.id)
