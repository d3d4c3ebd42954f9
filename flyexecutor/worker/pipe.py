"""Frames over the pipes between a worker and its runners. No process, no policy."""

import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

READ_BYTES = 1 << 20
PIPE_BYTES = 64 * 1024  # what a pipe takes without its reader (Linux, pipe(7)): more may block the writer
_LENGTH = struct.Struct(">I")
_GIVEN = struct.Struct(">48sI")
_ANSWERED = struct.Struct(">48sIcd")


class Given(NamedTuple):
    """A call on its way to a runner."""

    call_id: str
    attempt: int
    sealed: bytes


class Answered(NamedTuple):
    """What a runner says of a call."""

    call_id: str
    attempt: int
    kind: bytes  # one of the three below
    seconds: float  # that the call ran
    sealed: bytes


RETURNED, RAISED, SKIPPED = b"r", b"x", b"s"  # skipped: it had been taken back


def pack_given(call: Given) -> bytes:
    """A frame for a runner."""
    return _GIVEN.pack(call.call_id.encode(), call.attempt) + call.sealed


def unpack_given(frame: bytes) -> Given:
    """The reverse of `pack_given`."""
    call_id, attempt = _GIVEN.unpack_from(frame)
    return Given(call_id.decode(), attempt, frame[_GIVEN.size :])


def pack_answered(answer: Answered) -> bytes:
    """A frame for the worker."""
    return _ANSWERED.pack(answer.call_id.encode(), answer.attempt, answer.kind, answer.seconds) + answer.sealed


def unpack_answered(frame: bytes) -> Answered:
    """The reverse of `pack_answered`."""
    call_id, attempt, kind, seconds = _ANSWERED.unpack_from(frame)
    return Answered(call_id.decode(), attempt, kind, seconds, frame[_ANSWERED.size :])


def write_frames(fd: int, frames: Iterable[bytes]) -> None:
    """Write frames; blocks while the pipe is full."""
    view = memoryview(b"".join(part for frame in frames for part in (_LENGTH.pack(len(frame)), frame)))
    while view:
        view = view[os.write(fd, view) :]


class FrameReader:
    """The reading end: one read a time, all frames that are complete."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._buffer = bytearray()

    def read_some(self) -> list[bytes]:
        """Read once (blocks if there is nothing) and answer the frames that are complete. Raises EOFError."""
        data = os.read(self.fd, READ_BYTES)
        if not data:
            raise EOFError
        self._buffer += data
        frames = []
        at = 0
        while len(self._buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            if len(self._buffer) - at - _LENGTH.size < length:
                break
            at += _LENGTH.size
            frames.append(bytes(self._buffer[at : at + length]))
            at += length
        del self._buffer[:at]
        return frames
