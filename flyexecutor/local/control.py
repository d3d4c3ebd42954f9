"""What the owner of a LocalFly asks and Fly has not, from the owner's process: the routes are in `api.control`."""

import http.client
import json
from typing import Any

PREFIX = "/local/"


class Control:
    """Asks the server at a port. Raises OSError when it is not there."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token

    def ask(self, question: str, order: Any = None) -> Any:
        """The answer to a question, or to an order if something is told. Raises ValueError with a refusal's text."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
            body = None if order is None else json.dumps(order)
            connection.request("GET" if order is None else "POST", PREFIX + question, body, headers)
            answer = connection.getresponse()
            said = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(said["error"])
        return said
