"""Payloads that Redis is not to read: AES-256-GCM from `cryptography`, an extra. Pure functions; no I/O.

Each payload has a key of its own, derived (HKDF-Expand, RFC 5869) from a signing key and random bytes that travel with
it: so there is no number of payloads after which nonces would repeat. What is encrypted is signed as well, and is
verified before it comes here.
"""

import hmac
import importlib.util
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

REMEDY = "pip install 'flyexecutor[crypto]' (in the image of the machines too)"
_SALT_BYTES, _NONCE_BYTES = 16, 12


def is_installed() -> bool:
    """Whether we can encrypt and decrypt here."""
    return importlib.util.find_spec("cryptography") is not None


def encrypt(key: bytes, body: bytes) -> bytes:
    """What only the holders of the signing key can read."""
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    return b"".join((salt, nonce, _aead(key, salt).encrypt(nonce, body, None)))


def decrypt(key: bytes, body: memoryview) -> memoryview:
    """What `encrypt` was given. Of verified bytes only: others raise what `cryptography` raises."""
    salt, nonce, encrypted = body[:_SALT_BYTES], body[_SALT_BYTES:][:_NONCE_BYTES], body[_SALT_BYTES + _NONCE_BYTES :]
    return memoryview(_aead(key, bytes(salt)).decrypt(bytes(nonce), encrypted, None))


def _aead(key: bytes, salt: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra, and slow to load

    return AESGCM(hmac.digest(key, b"encryption of a payload\0" + salt + b"\x01", "sha256"))
