"""What the soak's machines run. Each run leaves a line, so that it can be told how often and where a call ran.

What they answer can be verified: the token that they were given, a digest of what came with it, and a word of this run
alone, by which two answers to one call give themselves away.
"""

import asyncio
import hashlib
import os
import random
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import flyexecutor
from flyexecutor import FlyMachineExecutor, Retry
from tests.tasks import OddError, Unpicklable

FOLDER = "SOAK_FOLDER"  # in the environment of machines; it marks their processes, too
LOST = 1000  # machines that a call may lose
RESULT_TTL = 300.0


def runs(folder: str, token: str) -> list[str]:
    """A line for each run of what has this token: `pid call attempt word`."""
    file = Path(folder, "runs", token)
    return file.read_text().splitlines() if file.exists() else []


def begin(token: str) -> str:
    call = flyexecutor.current_call()
    assert call
    word = secrets.token_hex(4)
    with Path(os.environ[FOLDER], "runs", token).open("a") as file:
        file.write(f"{os.getpid()} {call.id} {call.attempt} {word}\n")
    return word


def filler(token: str, size: int) -> bytes:
    """Bytes that hardly compress."""
    return random.Random(token).randbytes(size)


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def answer(token: str, body: bytes, seconds: float = 0.0, size: int = 0) -> tuple[str, str, bytes, str]:
    word = begin(token)
    time.sleep(seconds)
    return token, digest(body), filler(token, size), word


async def answer_soon(token: str, body: bytes) -> tuple[str, str, bytes, str]:
    word = begin(token)
    await asyncio.sleep(0.01)
    return token, digest(body), b"", word


def item(token: str, shared: bytes, number: int) -> tuple[str, str, int]:
    begin(token)
    return token, digest(shared), number


def items(token: str, number: int, size: int) -> Iterator[bytes]:
    begin(token)
    for n in range(number):
        yield filler(f"{token} {n}", size)


def refuse(token: str) -> NoReturn:
    begin(token)
    raise ValueError(token)


def stumble(token: str, times: int) -> tuple[str, str, bytes, str]:
    word = begin(token)
    if len(runs(os.environ[FOLDER], token)) <= times:
        raise ValueError(token)
    return token, digest(b""), b"", word


def tell(token: str, steps: int) -> tuple[str, str, bytes, str]:
    word = begin(token)
    for step in range(steps):
        flyexecutor.progress(step + 1, steps, token)
        time.sleep(0.02)
    return token, digest(b""), b"", word


def nest(token: str, depth: int) -> int:
    begin(token)
    if depth == 0:
        return 0
    with FlyMachineExecutor(retries=Retry(lost=LOST), result_ttl=RESULT_TTL) as executor:
        return executor.submit(nest, token, depth - 1).result() + 1


def end_by(token: str, how: str) -> Any:
    begin(token)
    if how == "sys.exit":
        sys.exit(3)
    if how == "os._exit":
        os._exit(3)
    if how == "odd exception":
        raise OddError(1, 2)
    return Unpicklable()
