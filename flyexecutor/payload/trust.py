"""Who may run code here. Derives the keys, seals payloads, and verifies them before anyone unpickles.

Unpickling is running code, in both directions, and Redis is only a wire: whoever can write to it must not be able to
run anything. So every payload is sealed with HMAC-SHA256 over what it is, whom it is for and on which terms; a payload
moved to another call, another app, the other direction or another attempt does not verify. Pure functions and keys; no
I/O, no pickle.

The keys are a ring: the first signs, all verify. A head names its key, so that none is tried in vain.
"""

import hashlib
import hmac
import os
import secrets
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from flyexecutor.errors import PayloadError, PythonMismatchError
from flyexecutor.payload import cipher
from flyexecutor.secrecy import SecretBytes
from flyexecutor.terms import CallTerms, OutcomeTerms

WARMUP = "warmup"  # the id under which the function is sealed that machines run before they are first suspended
FORMAT = 3
_MAGIC = b"FX"
_ENCRYPTED = 1  # the flag of a body that is encrypted
_HEAD = struct.Struct(">2sBBBBB8sH")  # magic, format, Python (2), encoding, flags, key id, length of terms
_LENGTHS = struct.Struct(">IIII")  # of app, direction and id, and the attempt
_MAC_BYTES = 32
_OVERHEAD = _HEAD.size + _MAC_BYTES
_ID_RANDOM = 12
_ID_TAG = 8
_BATCH_RANDOM = 8
_CALL, _BATCH, _BATCH_CALL = b"id", b"batch id", b"id in a batch"  # what a tag is for


class Encoding(IntEnum):
    """What the sealed body is."""

    PICKLE = 0  # frames of a pickle; for this Python version only
    TEXT = 1  # a plain error, readable by every version
    ZLIB = 2  # a PICKLE, compressed


class Opened(NamedTuple):
    """A verified payload."""

    encoding: Encoding
    body: memoryview


class OpenedCall(NamedTuple):
    """A verified call."""

    terms: CallTerms
    encoding: Encoding
    body: memoryview


class OpenedOutcome(NamedTuple):
    """A verified outcome."""

    terms: OutcomeTerms
    encoding: Encoding
    body: memoryview


class Trust:
    """The keys of one app: one that signs, and fallbacks that verify as well. `repr` shows the id of the first only.

    encrypts: what is sealed can be read only with the key. What somebody else has encrypted is opened in any case.
    """

    def __init__(self, key: bytes, app: str, fallbacks: Sequence[bytes] = (), *, encrypts: bool = False) -> None:
        self._key = key
        self._encrypts = encrypts
        self.app = app
        self._app = app.encode()
        self._ring = {name_key(signing): signing for signing in (key, *fallbacks)}
        # Copied for each digest: half the time of `hmac.digest`, which lets go of the GIL besides, for short texts too.
        self._macs = {signing: hmac.new(signing, digestmod="sha256") for signing in self._ring.values()}
        self.key_id = name_key(key)

    def __repr__(self) -> str:
        return f"<Trust key {self.key_id.hex()}>"

    def new_call_id(self, key: str | None = None) -> str:
        """An unguessable id (96 random bits, the time, and a tag by which we know our own: 48 hex digits).

        key: the same key gives the same id, to whoever has our signing key.
        """
        if key is not None:
            return self._keyed_id(self._key, key)
        body = struct.pack(">I", int(time.time())) + _draw()
        return (body + self._tag(self._key, body)).hex()

    def pointers(self, key: str) -> Sequence[str]:
        """The ids that a key gives under the other keys of the ring, each with a proof for who has the first one's."""
        call_id, *others = (self._keyed_id(signing, key) for signing in self._ring.values())
        return [other + self._proof(self._key, b"same", call_id, other) for other in others]

    def follow(self, call_id: str, pointer: str) -> str | None:
        """The id that a pointer gives for this one, if somebody made it who has a key of ours."""
        other = pointer[: len(call_id)]
        return other if self._proves(pointer[len(call_id) :], b"same", call_id, other) else None

    def vouch(self, lane: str, machine_id: str) -> str:
        """A proof that this machine is one of the lane, for whoever is to start it."""
        return self._proof(self._key, b"rests", lane, machine_id)

    def is_vouched(self, lane: str, machine_id: str, proof: str) -> bool:
        """Whether somebody has made this proof who has a key of ours."""
        return self._proves(proof, b"rests", lane, machine_id)

    def _proves(self, proof: str, purpose: bytes, first: str, second: str) -> bool:
        proofs = (self._proof(signing, purpose, first, second) for signing in self._ring.values())
        return any(hmac.compare_digest(proof.encode(), each.encode()) for each in proofs)

    def _proof(self, signing: bytes, purpose: bytes, first: str, second: str) -> str:
        return self._digest(signing, b"\0".join((purpose, self._app, first.encode(), second.encode()))).hex()

    def knows(self, call_id: str) -> bool:
        """Whether the id was made with a key of ours: tells an expired call from one that never was."""
        return self._signer(call_id, _CALL) is not None

    def knows_batch(self, batch_id: str) -> bool:
        """The same for that of a batch."""
        return self._signer(batch_id, _BATCH) is not None

    def new_batch_id(self, number: int) -> str:
        """The id of a batch of so many calls: the time, their number, 64 random bits, and a tag that no call has."""
        body = struct.pack(">II", int(time.time()), number) + secrets.token_bytes(_BATCH_RANDOM)
        return (body + self._tag(self._key, body, _BATCH)).hex()

    def calls_of_batch(self, batch_id: str) -> list[str]:
        """The ids of its calls, in order: made of its own, so that nobody without our key adds or leaves out one."""
        signing = self._signer(batch_id, _BATCH)
        if signing is None:
            return []
        raw = bytes.fromhex(batch_id)
        _, number = struct.unpack_from(">II", raw)
        numbered = (raw + n.to_bytes(4, "big") for n in range(number))
        bodies = (raw[:4] + self._tag(signing, body, _BATCH_CALL, _ID_RANDOM) for body in numbered)
        return [(body + self._tag(signing, body)).hex() for body in bodies]

    def made_at(self, call_id: str) -> float:
        """When an id of ours, of a call or a batch, was made that no key has given: seconds since the epoch."""
        return float(struct.unpack_from(">I", bytes.fromhex(call_id))[0])

    def _keyed_id(self, signing: bytes, key: str) -> str:
        body = self._digest(signing, b"key\0" + self._app + b"\0" + key.encode())[: _ID_RANDOM + 4]
        return (body + self._tag(signing, body)).hex()

    def _signer(self, its_id: str, purpose: bytes) -> bytes | None:
        """The key of ours with which an id was made."""
        try:
            raw = bytes.fromhex(its_id)
        except ValueError:
            return None
        if raw.hex() != its_id:
            return None  # with a line's end, say: Redis would not know it
        body, tag = raw[:-_ID_TAG], raw[-_ID_TAG:]
        ring = self._ring.values()
        return next((signing for signing in ring if hmac.compare_digest(tag, self._tag(signing, body, purpose))), None)

    def _tag(self, signing: bytes, body: bytes, purpose: bytes = _CALL, length: int = _ID_TAG) -> bytes:
        return self._digest(signing, purpose + b"\0" + self._app + b"\0" + body)[:length]

    def seal_call(self, call_id: str, terms: CallTerms, body: bytes, encoding: Encoding = Encoding.PICKLE) -> bytes:
        """Seal what a client sends to a worker."""
        return self._seal(b"call", call_id, 0, body, encoding, terms.pack())

    def open_call(self, call_id: str, sealed: bytes) -> OpenedCall:
        """Verify what a client sent. Raises PayloadError, before anything is unpickled."""
        terms, encoding, body = self._open(b"call", call_id, 0, sealed)
        return OpenedCall(CallTerms.unpack(terms), encoding, body)

    def unverified_terms(self, sealed: bytes) -> CallTerms | None:
        """The terms of a call that nobody has verified: good enough to refuse it. None if there are none to be read."""
        try:
            magic, version, *_, key_id, length = _HEAD.unpack_from(sealed)
            if magic == _MAGIC and version == FORMAT and key_id in self._ring:
                return CallTerms.unpack(memoryview(sealed)[_OVERHEAD : _OVERHEAD + length])
        except (struct.error, ValueError):
            pass
        return None

    def seal_outcome(
        self, call_id: str, attempt: int, terms: OutcomeTerms, body: bytes, encoding: Encoding = Encoding.PICKLE
    ) -> bytes:
        """Seal what a worker sends back for this attempt."""
        return self._seal(b"outcome", call_id, attempt, body, encoding, terms.pack())

    def open_outcome(self, call_id: str, attempt: int, sealed: bytes) -> OpenedOutcome:
        """Verify what a worker sent back. Raises PayloadError, before anything is unpickled."""
        terms, encoding, body = self._open(b"outcome", call_id, attempt, sealed)
        return OpenedOutcome(OutcomeTerms.unpack(terms), encoding, body)

    def seal_part(self, part_id: str, body: bytes, encoding: Encoding = Encoding.PICKLE) -> bytes:
        """Seal what several calls share."""
        return self._seal(b"part", part_id, 0, body, encoding)

    def open_part(self, part_id: str, sealed: bytes) -> Opened:
        """Verify what several calls share. Raises PayloadError, before anything is unpickled."""
        return Opened(*self._open(b"part", part_id, 0, sealed)[1:])

    def seal_item(self, call_id: str, attempt: int, number: int, body: bytes, encoding: Encoding) -> bytes:
        """Seal an item that a generator yielded."""
        return self._seal(b"item %d" % number, call_id, attempt, body, encoding)

    def open_item(self, call_id: str, attempt: int, number: int, sealed: bytes) -> Opened:
        """Verify an item. Raises PayloadError, before anything is unpickled."""
        return Opened(*self._open(b"item %d" % number, call_id, attempt, sealed)[1:])

    def _seal(
        self, direction: bytes, call_id: str, attempt: int, body: bytes, encoding: Encoding, terms: bytes = b""
    ) -> bytes:
        flags = 0
        if self._encrypts:
            body, flags = cipher.encrypt(self._key, body), _ENCRYPTED
        head = _HEAD.pack(_MAGIC, FORMAT, *sys.version_info[:2], encoding, flags, self.key_id, len(terms))
        return b"".join((head, self._mac(self._key, head, direction, call_id, attempt, terms, body), terms, body))

    def _open(
        self, direction: bytes, call_id: str, attempt: int, sealed: bytes
    ) -> tuple[memoryview, Encoding, memoryview]:
        what = f"the {direction.decode()} payload of call {call_id}"
        if len(sealed) < _OVERHEAD:
            raise PayloadError(f"{what} is truncated ({len(sealed)} bytes): it was refused and not unpickled")
        view = memoryview(sealed)
        head, mac, rest = view[: _HEAD.size], view[_HEAD.size : _OVERHEAD], view[_OVERHEAD:]
        magic, version, major, minor, encoding, flags, key_id, length = _HEAD.unpack(head)
        if magic != _MAGIC or version != FORMAT:
            raise PayloadError(
                f"{what} has format {version}, this flyexecutor reads {FORMAT}: install the same version on both sides"
            )
        key = self._ring.get(key_id)
        if key is None:
            ours = f"ours {'is' if len(self._ring) == 1 else 'are'} {', '.join(key_id.hex() for key_id in self._ring)}"
            raise PayloadError(
                f"{what} is signed with key {key_id.hex()}, {ours}: give both sides the same "
                "FLYEXECUTOR_SECRET (or the same Fly API token), or the other's in FLYEXECUTOR_SECRET_FALLBACKS"
            )
        if not hmac.compare_digest(mac, self._mac(key, head, direction, call_id, attempt, rest)):
            raise PayloadError(f"{what} does not verify: it was changed or replayed, and was not unpickled")
        if flags & ~_ENCRYPTED:
            raise PayloadError(
                f"{what} has flags that this flyexecutor does not know ({flags:#x}): install the same version on both "
                "sides"
            )
        if encoding != Encoding.TEXT and (major, minor) != sys.version_info[:2]:
            raise PythonMismatchError(
                f"{what} was pickled by Python {major}.{minor}, this side runs Python {sys.version_info[0]}."
                f"{sys.version_info[1]}: use an image with the same Python version as the submitting side"
            )
        body = rest[length:]
        if flags:
            if not cipher.is_installed():
                raise PayloadError(f"{what} is encrypted, and the package cryptography is not here: {cipher.REMEDY}")
            body = cipher.decrypt(key, body)
        return rest[:length], Encoding(encoding), body

    def _mac(
        self,
        key: bytes,
        head: bytes | memoryview,
        direction: bytes,
        call_id: str,
        attempt: int,
        *rest: bytes | memoryview,
    ) -> bytes:
        # Lengths go before all fields, that of the terms is in the head: no two sets of fields give the same bytes.
        name = call_id.encode()
        lengths = _LENGTHS.pack(len(self._app), len(direction), len(name), attempt)
        return self._digest(key, b"".join((lengths, self._app, direction, name, head)), *rest)

    def _digest(self, signing: bytes, *parts: bytes | memoryview) -> bytes:
        mac = self._macs[signing].copy()
        for part in parts:
            mac.update(part)
        return mac.digest()


def _draw() -> bytes:
    """Random bytes for one id. The system is asked for those of many: each time takes longer than a seal."""
    while True:
        try:
            return _drawn.pop()
        except IndexError:
            many = secrets.token_bytes(_ID_RANDOM * 256)
            _drawn.extend(many[at : at + _ID_RANDOM] for at in range(0, len(many), _ID_RANDOM))


_drawn: deque[bytes] = deque()  # for ids that are yet to come; whatever thread takes some, nobody else has them
os.register_at_fork(after_in_child=_drawn.clear)


def name_key(key: bytes) -> bytes:
    """The id of a key, by which a sealed payload names it."""
    return hashlib.sha256(b"flyexecutor key id\0" + key).digest()[:8]


def derive_key(secret: str, app: str) -> bytes:
    """The app's 32-byte key from `FLYEXECUTOR_SECRET` or the API token: HKDF-SHA256 (RFC 5869), one block."""
    extracted = SecretBytes(hmac.digest(b"flyexecutor", secret.encode(), "sha256"))
    return SecretBytes(hmac.digest(extracted, b"signing key of " + app.encode() + b"\x01", "sha256"))
