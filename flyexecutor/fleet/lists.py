"""Step 5: the list of an app's machines, one for all who need one: lanes, clients, people.

Fly allows one list a second per app, whoever asks. So whoever needs one takes the newest from Redis if it is new enough
for him; else one client of all fetches it when the pace in Redis allows (`lua/seek`) and publishes it, while the others
block until it is there. A fetch that Fly refuses makes all of them pause. No thread: each asks in his own. A client
that is killed while it fetches holds up the others for FETCH_SECONDS at most, by the expiry of its lock.

A published list is sealed together with the moment of its begin. Without our key nobody can make one up, or show an
old one as new: so machines may be stopped and destroyed on the word of one that came from Redis, as on Fly's own. (Who
has the key can run code in our machines and clients anyway.) What does not verify is passed over and fetched anew.
"""

import json
import logging
import secrets
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields

from flyexecutor.errors import MachinesError, PayloadError, RedisUnavailableError
from flyexecutor.fleet.api import ATTEMPTS, MachinesClient, is_transient, pauses
from flyexecutor.fleet.machine import Exit, Machine
from flyexecutor.payload.trust import Encoding, Trust
from flyexecutor.store.calls import Store
from flyexecutor.store.lanes import Sought

LIST_EVERY = 1.0  # seconds, per app (Fly's documented rate limit), with a burst of
LIST_BURST = (
    2  # Fly's is 3: one is left for others than us, and for what arrives sooner after the last than it was sent
)
FETCH_SECONDS = 3.0  # that a list may take; then somebody else may fetch one too
PATIENCE = 60.0  # seconds
KEPT = 60  # seconds that a list stays in Redis
MOST_BYTES = 4 * 1024 * 1024  # of a list in Redis: some 20,000 machines. A larger one is for who has fetched it
UNPACKED_BYTES = 64 * 1024 * 1024

log = logging.getLogger("flyexecutor")


class Lists:
    """The lists of one app's machines, as far as they are ours."""

    def __init__(self, store: Store, machines: MachinesClient, trust: Trust) -> None:
        self._store = store
        self._machines = machines
        self._trust = trust
        self._name = name_lists(trust)

    def since(self, moment: int = 0) -> Sequence[Machine]:
        """The machines of ours in all lanes of the app, from a list that began at this moment or later.

        moment: ms, by Redis's clock; 0: now. Raises MachinesError.
        """
        asker = secrets.token_hex(8)
        deadline = time.monotonic() + PATIENCE
        pause, left = 0.0, list(pauses(ATTEMPTS))
        failed = None
        while time.monotonic() < deadline:
            try:
                sought = self._seek(asker, moment, pause)
                moment, pause = sought.moment, 0.0
                if sought.found is not None:
                    if (machines := self._open(sought)) is not None:
                        return machines
                    moment = sought.began + 1
                    continue
                if sought.fetch_in is None:
                    self._store.await_list(self._name, sought.last, sought.wait)
                    continue
            except RedisUnavailableError as exc:
                log.info("a list of the machines is not shared: %s", exc)
                return self._machines.list_all(attempts=ATTEMPTS)
            try:
                return self._fetch(sought, asker)
            except MachinesError as exc:
                if not (left and is_transient(exc)):
                    raise
                pause, failed = left.pop(0), exc
        raise failed or MachinesError(
            f"no list of the app's machines could be had within {PATIENCE:g} s: others ask all the time"
        )

    def _seek(self, asker: str, moment: int, pause: float) -> Sought:
        return self._store.seek_list(
            self._name, asker, moment, fetch=FETCH_SECONDS, every=LIST_EVERY, burst=LIST_BURST, pause=pause
        )

    def _fetch(self, sought: Sought, asker: str) -> Sequence[Machine]:
        sealed = b""
        try:
            time.sleep(sought.fetch_in or 0.0)
            machines = self._machines.list_all(attempts=1)
            sealed = self._seal(machines, sought.began)
        finally:
            # Whatever was raised: the others are not to wait for us.
            try:
                self._store.publish_list(self._name, asker, sought.began, sealed, KEPT)
            except RedisUnavailableError as exc:
                log.info("a list of the machines is not shared: %s", exc)
        return machines

    def _seal(self, machines: Iterable[Machine], began: int) -> bytes:
        body = zlib.compress(json.dumps([asdict(machine) for machine in machines]).encode(), 1)
        return self._trust.seal_part(_part(began), body, Encoding.TEXT) if len(body) <= MOST_BYTES else b""

    def _open(self, sought: Sought) -> Sequence[Machine] | None:
        """The machines of a list that was found; None if it is none of ours."""
        try:
            body = self._trust.open_part(_part(sought.began), sought.found or b"").body
            unpacked = zlib.decompressobj().decompress(body, UNPACKED_BYTES)
            return [_machine(**fields) for fields in json.loads(unpacked)]
        except (PayloadError, zlib.error, ValueError, TypeError, RecursionError, MemoryError) as exc:
            log.warning("a list of the machines that was in Redis is passed over: %s", exc)
            return None


def name_lists(trust: Trust) -> str:
    """Whose they are: who has another key, or another version of ours, can't read them, and has his own."""
    version = zlib.crc32(
        repr([(field.name, field.type) for record in (Machine, Exit) for field in fields(record)]).encode()
    )
    return f"{trust.key_id.hex()}.{version:08x}"


def _part(began: int) -> str:
    return f"machines {began}"


def _machine(*, exit: "dict[str, int] | None", **fields: object) -> Machine:
    return Machine(exit=Exit(**exit) if exit else None, **fields)  # type: ignore[arg-type]
