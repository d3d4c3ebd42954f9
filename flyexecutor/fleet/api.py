"""The only module that knows the Machines API over HTTP.

Typed, with bounded retries and jitter; what can't be retried blindly (a create whose answer was lost) is looked for
first, by the machine's name. Errors are MachinesError with the status, Fly's text and `fly-request-id`; never the
token, a header or a whole answer. Owns a connection pool and no thread. Source of the facts: Fly's documentation of
the Machines API (https://fly.io/docs/machines/api/), August 2026.
"""

import contextlib
import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urljoin

import requests
import urllib3

from flyexecutor.errors import MachinesError
from flyexecutor.fleet import answers
from flyexecutor.fleet.machine import Machine
from flyexecutor.names import shown
from flyexecutor.secrecy import Secret, passwords_of, redact, scrub

ANSWER_TIMEOUT = 30.0
CONNECT_TIMEOUT = 5.0
ATTEMPTS = 5  # of one request: with the pauses below some 6 s
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 5.0
WAIT_LIMIT = 60.0  # Fly: the longest `timeout` of wait

_BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError)  # what a connection that breaks raises
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

    def __init__(self, api_url: str, app: str, token: str, *, secrets: Iterable[str] = ()) -> None:
        """secrets: what its machines know, which an answer may quote."""
        self._secrets = frozenset(map(Secret, (*secrets, token, *re.split("[ ,]", token))))
        self._env: dict[str, str] = {}  # of machines, as it was sent
        self._base = f"{api_url}/v1/apps/{app}"
        self._api_url = api_url
        self._app = app
        self._session = requests.Session()
        # One per call in flight; the fleet starts machines in parallel.
        self._session.mount(api_url, requests.adapters.HTTPAdapter(pool_maxsize=32))
        self._session.trust_env = False  # a .netrc must not replace our token
        self._session.headers["Accept-Encoding"] = "gzip"  # what `answers` unpacks
        self._session.headers["Authorization"] = Secret(f"Bearer {token}")  # as it is: tokens hold spaces and commas

    def __repr__(self) -> str:
        return f"<MachinesClient {self._base}>"

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def list_all(self, *, attempts: int) -> Sequence[Machine]:
        """The machines of ours in all lanes of the app, never somebody else's, that are not destroyed.

        Fly allows one a second per app: `lists` shares them.
        """
        body = self._request("GET", "/machines", attempts=attempts, most=answers.MOST_LIST)
        return answers.read_machines(answers.read_json(body))

    def regions(self) -> Sequence[str]:
        """The regions that Fly has now: the list changes, so nothing is refused by it. Not every API tells them."""
        body = self._request("GET", "/platform/regions", base=f"{self._api_url}/v1", attempts=1)
        return answers.read_regions(answers.read_json(body))

    def free_volumes(self, name: str, region: str | None) -> Sequence[tuple[str, str]]:
        """Id and region of the volumes of this name (in this region) that no machine has."""
        free = answers.read_free_volumes(answers.read_json(self._request("GET", "/volumes")), name)
        return [(volume, its_region) for volume, its_region in free if region in {None, its_region}]

    def get(self, machine_id: str) -> Machine | None:
        """One machine; None if there is none (any more)."""
        try:
            body = self._request("GET", _path(machine_id))
        except MachinesError as exc:
            if exc.status == 404:
                return None
            raise
        return answers.read_machine(answers.read_json(body), machine_id)

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
            answer = self._request("POST", "/machines", body)
        except MachinesError as exc:
            machine = self._taken_by(exc)
            if machine is None or (machine.name, machine.lane) != (name, lane):
                raise
            return machine
        return answers.read_machine(answers.read_json(answer))

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
        return answers.read_machine(answers.read_json(self._request("POST", _path(machine_id), body)))

    def start(self, machine_id: str) -> str:
        """Start a machine that is stopped, suspended or created. Answers in which state it was."""
        return answers.read_state_before(answers.read_json(self._request("POST", _path(machine_id, "start"), {})))

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
        most: int = answers.MOST,
    ) -> bytes:
        """Ask, and again while that may help. Answers the body: an order that was carried out needs no words."""
        self._env = {**self._env, **((body or {}).get("config") or {}).get("env", {})}
        # The API waits for up to `timeout` seconds before it answers a wait.
        patience = ANSWER_TIMEOUT + float((params or {}).get("timeout", 0))
        for pause in (*pauses(attempts), None):
            try:
                response = self._session.request(
                    method,
                    (base or self._base) + path,
                    json=body,
                    params=params,
                    timeout=(CONNECT_TIMEOUT, patience),
                    stream=True,
                    allow_redirects=False,  # it would take the token along, and make a GET of a POST
                )
                with response:
                    if response.status_code < 300:
                        return answers.read_body(response, most, patience)
                    error = self._refused(method, path, response)
            except _BROKEN as exc:
                error = self._unreachable(exc)
            except answers.OddAnswerError as exc:
                raise MachinesError(f"the Machines API at {self._api_url} sent {exc}: check FLY_API_HOSTNAME") from None
            if pause is None or not is_transient(error):
                raise error from None
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _unreachable(self, exc: Exception) -> MachinesError:
        # The class only: the text of requests' exceptions may hold the whole request.
        return MachinesError(
            f"the Machines API at {self._api_url} can't be reached ({type(exc).__name__}): check FLY_API_HOSTNAME and "
            "the network"
        )

    def _refused(self, method: str, path: str, response: requests.Response) -> MachinesError:
        text = str(response.reason)
        with contextlib.suppress(answers.OddAnswerError, *_BROKEN):  # its status is what counts
            text = (
                answers.read_error(answers.read_json(answers.read_body(response, answers.MOST, ANSWER_TIMEOUT))) or text
            )
        text = answers.in_a_line(self._scrub(text))  # in this order: a part of a secret would not be known
        request_id: str | None = response.headers.get("fly-request-id", "")
        if not answers.is_word(request_id):
            request_id = None
        make_token = f"fly tokens create deploy -a {self._app} --expiry 8760h"
        remedy = {
            401: f"check FLY_API_TOKEN: mistyped, revoked or expired ({make_token})",
            403: f"make a token for this app with {make_token}",
            404: f"check that the app {self._app!r} exists (fly apps list) and that FLY_TASKS_APP names it",
            422: "check the image (WORKER_IMAGE), the guest and the environment",
        }.get(response.status_code)
        if response.status_code < 400:
            where = redact(urljoin(response.url, response.headers.get("location", "")))
            remedy = f"it points to {where}, where our token does not go: check FLY_API_HOSTNAME"
        if response.status_code in {400, 404, 422}:  # by Fly's words, which may change: then it is told as before
            if any(words in text.lower() for words in _LIMIT_WORDS):
                remedy = "flyexecutor reap may remove some; a trial organisation has 10 (https://fly.io/trial)"
            elif "region" in text.lower() and not any(words in text.lower() for words in _CAPACITY_WORDS):
                remedy = "regions, or FLY_REGION, must name regions of Fly (fly platform regions)"
        return MachinesError(
            f"the Machines API at {self._api_url} answered {response.status_code} to {method} {path} of the app "
            f"{self._app!r}: {text}{f'; {remedy}' if remedy else ''}"
            f"{f' (fly-request-id {request_id})' if request_id else ''}",
            response.status_code,
            request_id,
        )

    def _scrub(self, text: str) -> str:
        passwords = {password for value in self._env.values() for password in passwords_of(value) if "://" in value}
        return scrub(text, self._secrets | passwords, self._env)


def is_transient(error: MachinesError) -> bool:
    """Whether the same request may succeed later, for no other reason than time."""
    return error.status is None or error.status == 429 or error.status >= 500


def is_capacity(error: MachinesError) -> bool:
    """Whether Fly has no room just now, in this region or for this organisation."""
    return error.status in {409, 412, 422, 403} and any(word in str(error).lower() for word in _CAPACITY_WORDS)


def _path(machine_id: str, *action: str) -> str:
    if not answers.is_word(machine_id):
        # It may come from Redis: it must not lead our token to another path.
        raise MachinesError(f"no machine has the id {shown(repr(machine_id))}", 404)
    return "/".join(("/machines", machine_id, *action))


def pauses(attempts: int) -> Iterator[float]:
    """Seconds between two attempts: ever longer, with jitter."""
    for n in range(attempts - 1):
        yield random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2**n)


def is_too_soon(error: MachinesError) -> bool:
    """Whether a start was refused since the machine is not that far: its image is fetched, or its last life ends."""
    return error.status in {409, 412} and any(text in str(error) for text in _TOO_SOON)
