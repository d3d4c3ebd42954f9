"""Level 3: the only module that knows the Machines API over HTTP.

Typed, with bounded retries and jitter; what can't be retried blindly (a create whose answer was lost) is looked for
first, by the machine's name. Errors are MachinesError with the status, Fly's text and `fly-request-id`; never the
token, a header or a whole answer. Owns a connection pool and no thread. Source of the facts: Fly's documentation of
the Machines API (https://fly.io/docs/machines/api/), August 2026.
"""

import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import requests

from flyexecutor.errors import MachinesError
from flyexecutor.guests import guest_of
from flyexecutor.lane import (
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

ANSWER_TIMEOUT = 30.0
CONNECT_TIMEOUT = 5.0
ATTEMPTS = 5  # of one request: with the pauses below some 6 s
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 5.0
WAIT_LIMIT = 60.0  # Fly: the longest `timeout` of wait
BILLED = frozenset({"started", "stopping", "suspending"})  # Fly: from started until it rests

# Fly: 409, when a create names a machine that is there.
_NAME_TAKEN = re.compile(r'already_exists: .*machine ID (\w+) already exists with name "')
# Fly's texts, of users' threads.
_TOO_SOON = (
    "unable to start machine from current state: 'created'",
    "machine still active, refusing to start",
    "machine still attempting to start",
)
_LIMIT_WORDS = ("machine limit", "machines limit")
_CAPACITY_WORDS = ("insufficient", "could not reserve resource", "no capacity", *_LIMIT_WORDS)


class MachinesClient:
    """The machines of one app."""

    def __init__(self, api_url: str, app: str, token: str) -> None:
        self._base = f"{api_url}/v1/apps/{app}"
        self._api_url = api_url
        self._app = app
        self._session = requests.Session()
        # One per call in flight; the fleet starts machines in parallel.
        self._session.mount(api_url, requests.adapters.HTTPAdapter(pool_maxsize=32))
        self._session.trust_env = False  # a .netrc must not replace our token
        self._session.headers["Authorization"] = f"Bearer {token}"  # as it is: tokens hold spaces and commas

    def __repr__(self) -> str:
        return f"<MachinesClient {self._base}>"

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def list_all(self, *, attempts: int) -> Sequence[Machine]:
        """The machines of ours in all lanes of the app, never somebody else's, that are not destroyed.

        Fly allows one a second per app: `lists` shares them.
        """
        told = self._request("GET", "/machines", attempts=attempts)
        if not isinstance(told, list):
            raise MachinesError(
                "the Machines API answered with something that is no list of machines: check FLY_API_HOSTNAME"
            )
        return [_machine(one) for one in told if _is_ours(one)]

    def regions(self) -> Sequence[str]:
        """The regions that Fly has now: the list changes, so nothing is refused by it. Not every API tells them."""
        told = self._request("GET", "/platform/regions", base=f"{self._api_url}/v1", attempts=1)
        try:
            return [one["code"] for one in told["regions"]]
        except (KeyError, TypeError):
            raise MachinesError("the Machines API answered with something that is no list of regions", 200) from None

    def free_volumes(self, name: str, region: str | None) -> Sequence[tuple[str, str]]:
        """Id and region of the volumes of this name (in this region) that no machine has."""
        return [
            (one["id"], one["region"])
            for one in self._request("GET", "/volumes")
            if one.get("name") == name and not one.get("attached_machine_id") and region in {None, one.get("region")}
        ]

    def get(self, machine_id: str) -> Machine | None:
        """One machine; None if there is none (any more)."""
        try:
            return _machine(self._request("GET", _path(machine_id)))
        except MachinesError as exc:
            if exc.status == 404:
                return None
            raise

    def create(
        self, name: str, config: Mapping[str, Any], region: str | None, lane: str, *, launch: bool = True
    ) -> Machine:
        """Create a machine, which boots by itself unless told otherwise.

        The name makes it idempotent: if the answer of a first attempt was lost, a second is told which machine has it.
        A MachinesError without a status, or with 5xx, says that it may have been made all the same.
        """
        body: dict[str, Any] = {"name": name, "config": dict(config)}
        if region:
            body["region"] = region
        if not launch:
            body["skip_launch"] = True
        try:
            return _machine(self._request("POST", "/machines", body))
        except MachinesError as exc:
            machine = self._taken_by(exc)
            if machine is None or (machine.name, machine.lane) != (name, lane):
                raise
            return machine

    def _taken_by(self, refused: MachinesError) -> Machine | None:
        """The machine that has the name for which a create was refused."""
        found = _NAME_TAKEN.search(str(refused)) if refused.status == 409 else None
        if not found:
            return None
        for pause in (*pauses(ATTEMPTS), 0.0):
            if machine := self.get(found[1]):
                return machine
            time.sleep(pause)  # it is fresh, and may be invisible for a moment
        return None

    def update(self, machine_id: str, config: Mapping[str, Any]) -> Machine:
        """Give a machine another configuration, and leave it at rest; if it runs, its program is stopped for that."""
        body = {"config": dict(config), "skip_launch": True}
        return _machine(self._request("POST", _path(machine_id), body))

    def start(self, machine_id: str) -> None:
        """Start a machine that is stopped, suspended or created."""
        self._request("POST", _path(machine_id, "start"), {})

    def stop(self, machine_id: str) -> None:
        """Stop a machine: its stop signal, then SIGKILL."""
        self._request("POST", _path(machine_id, "stop"), {})

    def destroy(self, machine_id: str, *, force: bool = False) -> None:
        """Destroy a machine; one that runs only by force."""
        try:
            self._request("DELETE", _path(machine_id), params={"force": "true"} if force else None)
        except MachinesError as exc:
            if exc.status != 404:
                raise

    def wait(self, machine: Machine, state: str, timeout: float) -> None:
        """Wait until a machine has reached a state; raises MachinesError (408) if it does not."""
        params = {"state": state, "instance_id": machine.instance_id, "timeout": str(int(min(timeout, WAIT_LIMIT)))}
        self._request("GET", _path(machine.id, "wait"), params=params)

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        *,
        attempts: int = ATTEMPTS,
        base: str = "",
    ) -> Any:
        # The API waits for up to `timeout` seconds before it answers a wait.
        patience = ANSWER_TIMEOUT + float((params or {}).get("timeout", 0))
        for pause in (*pauses(attempts), None):
            try:
                response = self._session.request(
                    method, (base or self._base) + path, json=body, params=params, timeout=(CONNECT_TIMEOUT, patience)
                )
            except requests.RequestException as exc:
                error = self._unreachable(exc)
            else:
                if response.ok:
                    return _json(response)
                error = self._refused(method, path, response)
            if pause is None or not is_transient(error):
                raise error from None
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _unreachable(self, exc: requests.RequestException) -> MachinesError:
        # The class only: the text of requests' exceptions may hold the whole request.
        return MachinesError(
            f"the Machines API at {self._api_url} can't be reached ({type(exc).__name__}): check FLY_API_HOSTNAME and "
            "the network"
        )

    def _refused(self, method: str, path: str, response: requests.Response) -> MachinesError:
        told = _json(response)
        text = (told.get("error") or told.get("message") or "") if isinstance(told, dict) else ""
        request_id = response.headers.get("fly-request-id")
        make_token = f"fly tokens create deploy -a {self._app} --expiry 8760h"
        remedy = {
            401: f"check FLY_API_TOKEN: mistyped, revoked or expired ({make_token})",
            403: f"make a token for this app with {make_token}",
            404: f"check that the app {self._app!r} exists (fly apps list) and that FLY_TASKS_APP names it",
            422: "check the image (WORKER_IMAGE), the guest and the environment",
        }.get(response.status_code)
        if response.status_code in {400, 404, 422}:  # by Fly's words, which may change: then it is told as before
            if any(words in text.lower() for words in _LIMIT_WORDS):
                remedy = "flyexecutor reap may remove some; a trial organisation has 10 (https://fly.io/trial)"
            elif "region" in text.lower() and not any(words in text.lower() for words in _CAPACITY_WORDS):
                remedy = "regions, or FLY_REGION, must name regions of Fly (fly platform regions)"
        return MachinesError(
            f"the Machines API at {self._api_url} answered {response.status_code} to {method} {path} of the app "
            f"{self._app!r}: {text or response.reason}{f'; {remedy}' if remedy else ''}"
            f"{f' (fly-request-id {request_id})' if request_id else ''}",
            response.status_code,
            request_id,
        )


def is_transient(error: MachinesError) -> bool:
    """Whether the same request may succeed later, for no other reason than time."""
    return error.status is None or error.status == 429 or error.status >= 500


def is_capacity(error: MachinesError) -> bool:
    """Whether Fly has no room just now, in this region or for this organisation."""
    return error.status in {409, 412, 422, 403} and any(word in str(error).lower() for word in _CAPACITY_WORDS)


def _path(machine_id: str, *action: str) -> str:
    if not re.fullmatch(r"\w+", machine_id):
        # It may come from Redis: it must not lead our token to another path.
        raise MachinesError(f"no machine has the id {machine_id!r}", 404)
    return "/".join(("/machines", machine_id, *action))


def pauses(attempts: int) -> Iterator[float]:
    """Seconds between two attempts: ever longer, with jitter."""
    for n in range(attempts - 1):
        yield random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2**n)


def is_too_soon(error: MachinesError) -> bool:
    """Whether a start was refused since the machine is not that far: its image is fetched, or its last life ends."""
    return error.status in {409, 412} and any(text in str(error) for text in _TOO_SOON)


def _json(response: requests.Response) -> Any:
    try:
        return response.json()
    except requests.JSONDecodeError:
        return {}  # 204, or a proxy's plain text


def _is_ours(told: Any) -> bool:
    """Whether it has a lane. What others have made may be of any form."""
    try:
        return bool((told.get("config") or told.get("incomplete_config"))["metadata"].get(METADATA_KEY))
    except (KeyError, TypeError, AttributeError):
        return False


def _machine(told: Mapping[str, Any]) -> Machine:
    try:
        config = told.get("config") or told.get("incomplete_config") or {}
        metadata = config.get("metadata") or {}
        return Machine(
            id=told["id"],
            name=told.get("name", ""),
            state=told["state"],
            region=told.get("region", ""),
            instance_id=told.get("instance_id", ""),
            host_status=told.get("host_status", "ok"),
            exit=_last_exit(told.get("events") or ()),
            lane=metadata.get(METADATA_KEY, ""),
            family=metadata.get(FAMILY_KEY, ""),
            owner=metadata.get(OWNER_KEY, ""),
            keeper=metadata.get(KEEPER_KEY) == "1",
            created_at=_epoch(told.get("created_at")),
            changed_at=_epoch(told.get("updated_at")),
            billed_seconds=_billed(told.get("events") or ()),
            last_run=_last_run(told.get("events") or ()),
            guest=guest_of(config) if config else None,
            schedule=config.get("schedule") or "",
            schedule_name=metadata.get(SCHEDULE_KEY, ""),
            schedule_function=metadata.get(SCHEDULE_FUNCTION_KEY, ""),
            schedule_digest=metadata.get(SCHEDULE_DIGEST_KEY, ""),
            prepared=metadata.get(PREPARED_KEY) == "1",
            launches=metadata.get(LAUNCH_KEY) != "0",
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise MachinesError(
            "the Machines API answered with something that is no machine: check FLY_API_HOSTNAME"
        ) from None


def _epoch(told: str | None) -> float:
    return datetime.fromisoformat(told.replace("Z", "+00:00")).timestamp() if told else 0.0


def _billed(events: Sequence[Mapping[str, Any]]) -> float:
    """Seconds in which the machine was started, as far back as its events (newest first) tell."""
    seconds, until = 0.0, time.time()
    for event in events:
        at = float(event.get("timestamp") or 0) / 1000
        if event.get("status") in BILLED:
            seconds += max(0.0, until - at)
        until = at
    return seconds


def _last_run(events: Sequence[Mapping[str, Any]]) -> float:
    """Seconds in which the machine was started when it last was, if that has ended."""
    seconds, until = 0.0, None
    for event in events:  # newest first
        at = float(event.get("timestamp") or 0) / 1000
        if event.get("status") not in BILLED:
            if seconds:
                break
            until = at
        elif until is not None:
            seconds, until = seconds + max(0.0, until - at), at
    return seconds


def _last_exit(events: Any) -> Exit | None:
    for event in events:  # newest first
        request = event.get("request") or {}
        told = request.get("exit_event") or (request.get("MonitorEvent") or {}).get("exit_event")
        if event.get("type") != "exit" or not told:
            continue
        return Exit(
            told.get("exit_code"),
            told.get("signal"),
            bool(told.get("oom_killed")),
            int(event.get("timestamp") or 0),
            bool(told.get("requested_stop")),
        )
    return None
