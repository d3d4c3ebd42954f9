"""How requests of the API go wrong, by the rules of `faults`. Those below /local are spared."""

import socket
import time

from flask import Flask, Response, g, jsonify, request

from flyexecutor.local.control import PREFIX
from flyexecutor.local.faults import Faults
from flyexecutor.local.problems import Refused


def add_faults(api: Flask, faults: Faults) -> None:
    """Let requests of the API go wrong."""

    @api.before_request
    def go_wrong() -> tuple[Response, int] | Response | None:
        if request.path.startswith(PREFIX):
            return None
        delay, wrong, status = faults.draw()
        time.sleep(delay)
        g.loses_answer = wrong in {"lost_answers", "no_answer"}
        if wrong == "no_answer":
            return Response()  # which is lost
        if wrong == "too_many":
            raise Refused(429, "resource_exhausted: rate limit exceeded")
        if wrong == "broken":
            if status == 502:
                return Response("upstream connect error\n", 502, mimetype="text/plain")
            return jsonify(error="internal: something went wrong on our side", status="unknown"), status
        return None

    @api.after_request
    def lose_answer(response: Response) -> Response:
        if g.get("loses_answer"):
            # What is written to it now goes nowhere; the client sees the end of the connection.
            request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return response
