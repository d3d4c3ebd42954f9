"""What the Machines API answers, bounded and checked before anybody acts on it.

Machines are buried, stopped and destroyed on the word of an answer, and ids of it go into addresses. So what is not as
it must be is no machine: one in a list is passed over, and the others count; one that was asked for is an error.
Neither says that a machine is gone. What is only for people or prices (an event, a guest) costs that much and no more.
"""

import json
import math
import re
import reprlib
import time
import zlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import requests

from flyexecutor.damage import tell_once
from flyexecutor.errors import MachinesError
from flyexecutor.fleet.guests import guest_of
from flyexecutor.fleet.machine import (
    FAMILY_KEY,
    KEEPER_KEY,
    LAUNCH_KEY,
    METADATA_KEY,
    OWNER_KEY,
    PREPARED_KEY,
    SCHEDULE_DIGEST_KEY,
    SCHEDULE_FUNCTION_KEY,
    SCHEDULE_KEY,
    Exit,
    Machine,
)
from flyexecutor.names import shown, visible

MOST_LIST = 32 * 1024 * 1024  # bytes: a machine has some 4 kB, and an organisation some hundred
MOST = 4 * 1024 * 1024  # of any other answer: that about one machine repeats its configuration
PIECE = 64 * 1024
MOST_TEXT = 4096  # characters of a name, or of what we have put into the metadata
MOST_ERROR = 1000  # of Fly's words about an error
BILLED = frozenset({"started", "stopping", "suspending"})  # Fly: from started until it rests
_EARLIEST, _LATEST = 1.2e9, 4.1e9  # seconds since the epoch, 2008 to 2099: a day that Fly can have meant
_UNTOLD = "0001-01-01T00:00:00Z"  # Go's word for no time


class OddAnswerError(ValueError):
    """Something in an answer is not what it must be; says what."""


def is_word(text: object) -> bool:
    """Whether it is a word as Fly's ids and states are: nothing that leads an address elsewhere, or moves a cursor."""
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) is not None


def read_body(response: requests.Response, most: int, patience: float) -> bytes:
    """The body of an answer, unpacked. Raises OddAnswerError if it is larger than `most` bytes, or can't be unpacked;
    requests.Timeout, if it has not come within `patience` seconds.
    """
    packing = response.headers.get("Content-Encoding", "identity")
    unpack = zlib.decompressobj(wbits=31) if packing == "gzip" else None
    if unpack is None and packing != "identity":
        raise OddAnswerError(f"an answer that can't be unpacked ({shown(packing)})")
    body, until = bytearray(), time.monotonic() + patience
    # As it comes and not unpacked: a small piece may swell a thousandfold.
    while piece := response.raw.read1(PIECE, decode_content=False):
        try:
            body += unpack.decompress(piece, most + 1 - len(body)) if unpack else piece
        except zlib.error:
            raise OddAnswerError("an answer that can't be unpacked (gzip)") from None
        if len(body) > most:
            raise OddAnswerError(f"an answer that is larger than {most // 1024**2} MB")
        if time.monotonic() > until:
            raise requests.Timeout
    return bytes(body)


def read_json(body: bytes) -> Any:
    """What a body says; None if it is no JSON, as that of a proxy or of a 204. What is not UTF-8 is marked as such."""
    try:
        return json.loads(body.decode(errors="replace"), parse_int=_whole)
    except (ValueError, RecursionError, MemoryError):  # too deep, or too much of it
        return None


def read_machines(answer: object) -> list[Machine]:
    """The machines of ours in a list. Raises MachinesError if it is none."""
    if not isinstance(answer, list):
        raise MachinesError(
            "the Machines API answered with something that is no list of machines: check FLY_API_HOSTNAME"
        )
    now, found = time.time(), []
    for described in answer:
        if not _is_ours(described):
            continue
        try:
            found.append(_machine(described, now))
        except OddAnswerError as exc:
            tell_once(f"machine {shown(reprlib.repr(described.get('id')))} in Fly's list", exc)
    return found


def read_machine(answer: object, machine_id: str = "") -> Machine:
    """A machine that was asked for, by its id or in another way. Raises MachinesError."""
    try:
        machine = _machine(answer, time.time(), machine_id)
    except OddAnswerError as exc:
        raise MachinesError(
            f"the Machines API answered with something that is no machine ({exc}): check FLY_API_HOSTNAME"
        ) from None
    return machine


def read_state_before(answer: object) -> str:
    """In which state a machine was that has been started; empty: that was not told."""
    before = answer.get("previous_state") if isinstance(answer, dict) else None
    return before if isinstance(before, str) and is_word(before) else ""


def read_regions(answer: object) -> list[str]:
    """The regions of a list of them."""
    regions = answer.get("regions") if isinstance(answer, dict) else None
    if not isinstance(regions, list):
        raise MachinesError("the Machines API answered with something that is no list of regions", 200)
    return [region["code"] for region in regions if isinstance(region, dict) and is_word(region.get("code"))]


def read_free_volumes(answer: object, name: str) -> list[tuple[str, str]]:
    """Id and region of the volumes of this name that no machine has."""
    if not isinstance(answer, list):
        raise MachinesError("the Machines API answered with something that is no list of volumes", 200)
    named = [volume for volume in answer if isinstance(volume, dict) and volume.get("name") == name]
    free = [volume for volume in named if not volume.get("attached_machine_id")]
    return [
        (volume["id"], volume["region"])
        for volume in free
        if is_word(volume.get("id")) and is_word(volume.get("region"))
    ]


def read_error(answer: object) -> str:
    """Fly's words about an error, as they came."""
    words = (answer.get("error"), answer.get("message")) if isinstance(answer, dict) else ()
    return next((word for word in words if word and isinstance(word, str)), "")


def in_a_line(text: str) -> str:
    """What others have written, as it may stand in an error's text."""
    return visible(text[:MOST_ERROR], lines=False)


def _whole(digits: str) -> float:
    """A number in JSON: one that nobody can mean becomes a float, and is odd wherever a whole one is read."""
    return int(digits) if len(digits) < 20 else float(digits)


def _is_ours(described: Any) -> bool:
    """Whether it has a lane. What others have made may be of any form."""
    try:
        return bool((described.get("config") or described.get("incomplete_config"))["metadata"].get(METADATA_KEY))
    except (KeyError, TypeError, AttributeError):
        return False


def _machine(described: object, now: float, machine_id: str = "") -> Machine:
    described = _object(described, "it")
    config = _object(described.get("config") or described.get("incomplete_config") or {}, "its config")
    metadata = _object(config.get("metadata") or {}, "its metadata")
    events = _events(described.get("events") or [])
    if not described.get("id") or not described.get("state"):
        raise OddAnswerError("it has no id or no state")
    if machine_id and described["id"] != machine_id:
        raise _odd(f"it is not {machine_id}: its id", described["id"])
    return Machine(
        id=_word(described, "id"),
        name=_text(described, "name"),
        state=_word(described, "state"),
        region=_word(described, "region"),
        instance_id=_word(described, "instance_id"),
        host_status=_word(described, "host_status") or "ok",
        exit=_last_exit(events),
        lane=_word(metadata, METADATA_KEY),
        family=_text(metadata, FAMILY_KEY),
        owner=_text(metadata, OWNER_KEY),
        keeper=metadata.get(KEEPER_KEY) == "1",
        created_at=_moment(described, "created_at", now),
        changed_at=_moment(described, "updated_at", now),
        billed_seconds=_billed(events, now),
        last_run=_last_run(events),
        guest=_guest(config),
        schedule=_word(config, "schedule"),
        schedule_name=_text(metadata, SCHEDULE_KEY),
        schedule_function=_text(metadata, SCHEDULE_FUNCTION_KEY),
        schedule_digest=_text(metadata, SCHEDULE_DIGEST_KEY),
        prepared=metadata.get(PREPARED_KEY) == "1",
        launches=metadata.get(LAUNCH_KEY) != "0",
    )


def _odd(name: str, value: object) -> OddAnswerError:
    return OddAnswerError(
        f"{name} is {shown(reprlib.repr(value))}"
    )  # of a few levels: it may be as deep as can be read


def _object(described: object, name: str) -> Mapping[str, Any]:
    if not isinstance(described, dict):
        raise _odd(name, described)
    return described


def _word(described: Mapping[str, Any], name: str) -> str:
    """A word; empty, if it is not told."""
    word = described.get(name)
    if word is None or word == "":
        return ""
    if not is_word(word):
        raise _odd(f"its {name}", word)
    return str(word)


def _text(described: Mapping[str, Any], name: str) -> str:
    """A text on one line, of characters that can be sent on; empty, if it is not told."""
    text = described.get(name)
    if text is None:
        return ""
    if not isinstance(text, str) or len(text) > MOST_TEXT or not text.isprintable():
        raise _odd(f"its {name}", text)
    return text


def _moment(described: Mapping[str, Any], name: str, now: float) -> float:
    """Seconds since the epoch. What is not told is just now: nobody shall take the machine for stuck or forgotten."""
    text = described.get(name) or _UNTOLD
    if text == _UNTOLD:
        return now
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        seconds = moment.timestamp() if moment.tzinfo else 0.0
    except (ValueError, OverflowError, TypeError, AttributeError):
        seconds = 0.0
    if not _EARLIEST < seconds < _LATEST:
        raise _odd(f"its {name}", text)
    return seconds


def _guest(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Its guest, for people and prices; None, if its host does not tell it, or it is none."""
    if not config:
        return None
    try:
        guest = {**guest_of({}), **guest_of(config)}
    except TypeError:
        return None
    kind, cpus, memory_mb = guest["cpu_kind"], guest["cpus"], guest["memory_mb"]
    if not (is_word(kind) and _number(cpus, 1, 2**24) and _number(memory_mb, 1, 2**24)):
        return None
    return {"cpu_kind": kind, "cpus": cpus, "memory_mb": memory_mb}


def _number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _events(events: object) -> list[Mapping[str, Any]]:
    """The events of a machine, newest first, without the odd ones."""
    if not isinstance(events, list):
        raise _odd("its events", events)
    return [event for event in events if isinstance(event, dict) and _number(event.get("timestamp"), 0, _LATEST * 1000)]


def _billed(events: Iterable[Mapping[str, Any]], now: float) -> float:
    """Seconds in which the machine was started, as far back as its events (newest first) tell."""
    seconds, until = 0.0, now
    for event in events:
        at = event["timestamp"] / 1000
        if _is_billed(event):
            seconds += max(0.0, until - at)
        until = at
    return seconds


def _last_run(events: Iterable[Mapping[str, Any]]) -> float:
    """Seconds in which the machine was started when it last was, if that has ended."""
    seconds, until = 0.0, math.inf
    for event in events:  # newest first
        at = event["timestamp"] / 1000
        if not _is_billed(event):
            if seconds:
                break
            until = at
        elif until < math.inf:
            seconds, until = seconds + max(0.0, until - at), at
    return seconds


def _is_billed(event: Mapping[str, Any]) -> bool:
    status = event.get("status")
    return isinstance(status, str) and status in BILLED


def _last_exit(events: Iterable[Mapping[str, Any]]) -> Exit | None:
    for event in events:  # newest first
        if event.get("type") == "exit" and (exit_ := _exit(event)):
            return exit_
    return None


def _exit(event: Mapping[str, Any]) -> Exit | None:
    """How a machine ended, by either form of event; None, if this one does not tell."""
    request = event.get("request")
    if isinstance(request, dict) and isinstance(request.get("MonitorEvent"), dict):
        request = {**request["MonitorEvent"], **request}
    exit_event = request.get("exit_event") if isinstance(request, dict) else None
    if not exit_event or not isinstance(exit_event, dict):
        return None
    numbers, flags = ("exit_code", "signal"), ("oom_killed", "requested_stop")
    if not all(exit_event.get(name) is None or _number(exit_event[name], -(2**31), 2**31) for name in numbers):
        return None
    if not all(exit_event.get(name) is None or isinstance(exit_event[name], bool) for name in flags):
        return None
    return Exit(
        exit_event.get("exit_code"),
        exit_event.get("signal"),
        bool(exit_event.get("oom_killed")),
        event["timestamp"],
        bool(exit_event.get("requested_stop")),
    )
