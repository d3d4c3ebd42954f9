"""Waiting until a machine is in a state, as the API's `wait` has it. Blocks the thread that asks, and owns none.

A version that has been replaced never is in another state again. [unsure: of Fly's answer to one, and of its events]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flyexecutor.local.durations import parse_duration
from flyexecutor.local.machine import Machine
from flyexecutor.local.problems import Refused
from flyexecutor.local.states import REPLACED, SETTLED, can_reach

if TYPE_CHECKING:
    from werkzeug.datastructures import MultiDict

KINDS = {state: frozenset({state}) for state in ("started", "stopped", "suspended", "destroyed", "failed")}
KINDS["settled"] = SETTLED


@dataclass(frozen=True, slots=True)
class Wait:
    """For what, and for how long."""

    names: Sequence[str]  # states as the request names them
    version: str  # of the machine; empty: whichever it has
    from_event: str  # only what has happened after this one counts; empty: what is so now
    timeout: float  # seconds

    @property
    def states(self) -> frozenset[str]:
        """The states that end it."""
        return frozenset[str]().union(*(KINDS[name] for name in self.names))


def read_wait(query: "MultiDict[str, str]") -> Wait:
    """What a request asks for. Raises Refused for what makes no sense."""
    names = [name for each in query.getlist("state") for name in each.split(",") if name] or ["started"]
    for name in names:
        if name not in KINDS:
            raise Refused(400, f"invalid_argument: unknown state {name[:60]!r}")
    version = query.get("version") or query.get("instance_id") or ""
    if "stopped" in names and not version:
        raise Refused(400, "instance_id required when waiting for stopped machine")
    timeout = parse_duration(query.get("timeout"), 60.0)
    if not 1 <= timeout <= 60:
        raise Refused(400, "invalid_argument: timeout must be between 1 and 60 seconds")
    return Wait(names, version, query.get("from_event_id") or "", timeout)


def wait_for(machine: Machine, wait: Wait) -> dict[str, Any]:
    """The API's answer when the state is reached. Raises Refused (408) in time, or when it never will be."""

    def state() -> str:
        old = wait.version not in {"", machine.instance_id} and machine.state != "destroyed"
        return REPLACED if old else machine.state

    def reached() -> dict[str, Any] | None:
        if wait.from_event:
            passed = machine.events.after(wait.from_event)
            if passed is None:
                raise Refused(400, f"invalid_argument: machine {machine.id} has no event {wait.from_event[:60]!r}")
            return next((event for event in passed if event["status"] in wait.states), None)
        if state() not in wait.states:
            return None
        return next(event for event in machine.events.newest_first() if event["status"] == machine.state)

    with machine.changed:
        machine.changed.wait_for(lambda: reached() or not can_reach(state(), wait.states), wait.timeout)
        event = reached()
        if event is None:
            wanted = ", ".join(wait.names)
            text = f"machine failed to reach desired state, {wanted}, currently {state()}"
            raise Refused(408, f"deadline_exceeded: {text}")
        return {"ok": True, "state": event["status"], "version": machine.instance_id, "event_id": event["id"]}
