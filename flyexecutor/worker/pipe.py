"""Frames over the pipes between a worker and its runners. No process, no policy."""

import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

READ_BYTES = 1 << 20
PIPE_BYTES = 64 * 1024  # what a pipe takes without its reader (Linux, pipe(7); macOS, once written to): more may block
_HEAD = struct.Struct(">2sI")  # of a frame: its mark and length
_MARK = b"fx"
_GIVEN = struct.Struct(">c48sIIH")
_MESSAGE = struct.Struct(">c48sIIdd")


# What a worker gives: run this; calls will share this; calls share nothing any longer; do this before a suspension.
CALL, PART, FORGET, WARM = b"c", b"p", b"f", b"w"
# What a runner tells. Answers: it returned; it raised; it raised and shall be tried again; it was no call of ours, and
# nothing ran; it had been taken back.
RETURNED, RAISED, AGAIN, REFUSED, SKIPPED = b"r", b"x", b"a", b"v", b"s"
# And while a call goes on.
PROGRESS, ITEM, NESTED = b"p", b"i", b"n"
WARMED = b"w"


class Given(NamedTuple):
    """What a worker gives to a runner."""

    kind: bytes
    id: str = ""  # of the call, or of the part
    attempt: int = 0
    raised: int = 0
    sealed: bytes = b""
    name: str = ""  # of the call


class Message(NamedTuple):
    """What a runner says of a call."""

    kind: bytes
    call_id: str
    attempt: int
    number: int = 0  # ITEM: 0, 1, ...; NESTED: calls that it waits for; an answer: 1 if the log has a word on it
    seconds: float = 0.0  # that the call ran; AGAIN: to wait before the second attempt
    longest: float = 0.0  # AGAIN: seconds to wait at most
    body: bytes = b""


def pack_given(given: Given) -> bytes:
    """A frame for a runner."""
    name = given.name.encode()
    return _GIVEN.pack(given.kind, given.id.encode(), given.attempt, given.raised, len(name)) + name + given.sealed


def unpack_given(frame: bytes) -> Given:
    """The reverse of `pack_given`."""
    kind, its_id, attempt, raised, length = _GIVEN.unpack_from(frame)
    at = _GIVEN.size + length
    return Given(kind, its_id.decode(), attempt, raised, frame[at:], frame[_GIVEN.size : at].decode())


def pack_message(message: Message) -> bytes:
    """A frame for the worker."""
    head = _MESSAGE.pack(
        message.kind, message.call_id.encode(), message.attempt, message.number, message.seconds, message.longest
    )
    return head + message.body


def unpack_message(frame: bytes) -> Message:
    """The reverse of `pack_message`."""
    kind, call_id, attempt, number, seconds, longest = _MESSAGE.unpack_from(frame)
    return Message(kind, call_id.decode(errors="replace"), attempt, number, seconds, longest, frame[_MESSAGE.size :])


def write_frames(fd: int, frames: Iterable[bytes]) -> None:
    """Write frames; blocks while the pipe is full."""
    view = memoryview(b"".join(part for frame in frames for part in (_HEAD.pack(_MARK, len(frame)), frame)))
    while view:
        view = view[os.write(fd, view) :]


class FrameReader:
    """The reading end: one read a time, all frames that are complete."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.spoiled = False  # what came last was no frame: user code can write there, too
        self._buffer = bytearray()

    def read_some(self) -> list[bytes]:
        """Read once (blocks if there is nothing) and answer the frames that are complete. Raises EOFError, also if it
        is spoiled and there is no frame before that.
        """
        data = b"" if self.spoiled else os.read(self.fd, READ_BYTES)
        if not data:
            raise EOFError
        self._buffer += data
        frames = []
        at = 0
        while len(self._buffer) - at >= _HEAD.size:
            mark, length = _HEAD.unpack_from(self._buffer, at)
            if mark != _MARK:
                self.spoiled = True
                break
            if len(self._buffer) - at - _HEAD.size < length:
                break
            at += _HEAD.size
            frames.append(bytes(self._buffer[at : at + length]))
            at += length
        del self._buffer[:at]
        if self.spoiled and not frames:
            raise EOFError
        return frames
