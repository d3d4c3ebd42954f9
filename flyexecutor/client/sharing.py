"""What the calls of one fan-out share, so that it is pickled and sent once: the function, large arguments.

A large argument is known again by its content, not by its identity: one that is changed between two items is another.
Shared parts live in Redis while a call needs them, and the newest until the fan-out ends. No thread; its lock guards
the counts, which futures that end (in the watcher's thread) change too.
"""

import hashlib
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flyexecutor.call import Part
from flyexecutor.errors import PayloadTooLargeError
from flyexecutor.options import Options
from flyexecutor.payload import pickles
from flyexecutor.payload.trust import Trust
from flyexecutor.store.records import INLINE_BYTES

FUNCTION_BYTES = 2048  # a smaller pickled function travels in each call: that is cheaper than to fetch it


@dataclass(slots=True)
class _Shared:
    part: Part
    digest: bytes
    users: int  # calls that have not ended, and whoever else needs it


def dump_function(fn: Callable[..., Any], options: Options) -> bytes | None:
    """Pickle a function once for many calls. None if it can't be: each call then fails with the reason, as it is
    pickled with the function itself.
    """
    try:
        with pickles.shipping(options.ship):
            return pickles.dump_alone(fn)
    except Exception:  # noqa: BLE001 - user code pickles itself and may raise anything
        return None


class Sharing:
    """The shared parts of one fan-out."""

    def __init__(self, fn: Callable[..., Any], trust: Trust, options: Options, *, drop: Callable[[Part], None]) -> None:
        self._trust = trust
        self._options = options
        self._drop = drop
        self._lock = threading.Lock()
        self._shared: dict[bytes, _Shared] = {}  # by digest
        self._named: set[bytes] = set()  # digests that the call which is being prepared names,
        self._latest: set[bytes] = set()  # and the one sent last: the next may well name them again
        self._function: _Shared | None = None
        self.fn: Any = fn
        pickled = dump_function(fn, options)
        if pickled is None:
            return
        self.fn = pickles.Pickled(pickled)
        if len(pickled) > FUNCTION_BYTES:
            try:
                self._function = self._share(pickles.dump_part(self.fn))
            except PayloadTooLargeError:
                return  # so are the calls
            self._function.users += 1
            self.fn = pickles.PartReference(self._function.part.id)

    def prepare(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments of an item, with a reference in the place of each large one."""
        return tuple(self._share_value(arg) if _is_large(arg) else arg for arg in args)

    def take_named(self) -> Sequence[Part]:
        """What the items prepared since the last time name, for one call. Tell `ended` when that call has."""
        with self._lock:
            self._latest, self._named = self._named, set()
            named = [self._shared[digest] for digest in self._latest]
            if self._function and self._function not in named:
                named.append(self._function)
            for shared in named:
                shared.users += 1
            return [shared.part for shared in named]

    def ended(self, parts: Sequence[Part]) -> None:
        """A call that names these parts has ended."""
        ids = {part.id for part in parts}
        with self._lock:
            for shared in self._shared.values():
                shared.users -= shared.part.id in ids
        self._drop_unused()

    def close(self) -> None:
        """No further call will be sent."""
        with self._lock:
            self._latest = set()
            if self._function:
                self._function.users -= 1
                self._function = None
        self._drop_unused()

    def _drop_unused(self) -> None:
        with self._lock:
            needed = self._named | self._latest
            unused = [shared for shared in self._shared.values() if not shared.users and shared.digest not in needed]
            for shared in unused:
                del self._shared[shared.digest]
        for shared in unused:
            self._drop(shared.part)

    def _share_value(self, value: Any) -> Any:
        try:
            with pickles.shipping(self._options.ship):
                return pickles.PartReference(self._share(pickles.dump_part(value)).part.id)
        except Exception:  # noqa: BLE001 - user code pickles itself and may raise anything
            return value  # its call fails with the reason, as it is pickled

    def _share(self, dumped: pickles.Dumped) -> _Shared:
        pickles.check_size(dumped, "an argument", self._options.max_payload)
        digest = hashlib.blake2b(dumped.body, digest_size=32).digest()
        with self._lock:
            shared = self._shared.get(digest)
            if shared is None:
                part_id = self._trust.new_call_id()
                sealed = self._trust.seal_part(part_id, dumped.body, dumped.encoding)
                shared = self._shared[digest] = _Shared(Part(part_id, sealed), digest, 0)
            self._named.add(digest)
            return shared


def _is_large(arg: Any) -> bool:
    size = getattr(arg, "nbytes", 0)  # NumPy and its relatives
    return (isinstance(size, int) and size > INLINE_BYTES) or sys.getsizeof(arg, 0) > INLINE_BYTES
