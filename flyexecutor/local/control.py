"""What the owner of a LocalFly asks and Fly has not: routes below /local, with the API's token, neither limited nor
counted. `Control` is their client, in the owner's process.
"""

import http.client
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask, Response

    from flyexecutor.local.apps import Apps

PREFIX = "/local/"


def add_control(api: "Flask", apps: "Apps") -> None:
    """Add the routes to the API."""
    from flask import jsonify, request  # noqa: PLC0415 - the owner's process imports this module too, and needs no Flask

    @api.get(f"{PREFIX}billed")
    def billed() -> "Response":
        return jsonify(apps.meter.billed())

    @api.get(f"{PREFIX}requests")
    def requests() -> "Response":
        return jsonify(apps.meter.requests())

    @api.get(f"{PREFIX}states")
    def states() -> "Response":
        return jsonify(apps.states())

    @api.post(f"{PREFIX}faults")
    def faults() -> "Response":
        apps.faults.set(request.get_json())
        return jsonify(None)

    @api.post(f"{PREFIX}lose_host")
    def lose_host() -> "Response":
        apps.lose_host(request.get_json())
        return jsonify(None)


class Control:
    """Asks the server at a port. Raises OSError when it is not there."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token

    def ask(self, what: str, told: Any = None) -> Any:
        """The answer to a question, or to an order if something is told. Raises ValueError with a refusal's text."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
            body = None if told is None else json.dumps(told)
            connection.request("GET" if told is None else "POST", PREFIX + what, body, headers)
            answer = connection.getresponse()
            said = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(said["error"])
        return said
