"""The API as a Flask application: who may ask, and what an answer has in common with every other."""

import json
import secrets

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from flyexecutor.local.api import apps as app_routes
from flyexecutor.local.api import details, machines, missing, volumes
from flyexecutor.local.api.gate import GATE, Gate
from flyexecutor.local.apps import Apps
from flyexecutor.local.control import PREFIX
from flyexecutor.local.limits import Limits
from flyexecutor.local.problems import Refused
from flyexecutor.local.sockets import OWN, may_pass


def make_api(apps: Apps, limits: Limits, token: str) -> Flask:
    """The API of some apps, for whoever has the token."""
    api = Flask(__name__)

    @api.before_request
    def admit() -> None:
        if not request.path.startswith(PREFIX):
            apps.meter.count_request()
        if own := request.environ.get(OWN):
            if not may_pass(own, request.endpoint, request.view_args or {}):
                raise Refused(403, "forbidden: through its own socket a machine may suspend or stop itself")
            return
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not secrets.compare_digest(given.encode(), token.encode()):
            raise Refused(401, "unauthorized: the token is missing or invalid")

    @api.after_request
    def name_request(response: Response) -> Response:
        response.headers["fly-request-id"] = f"{secrets.token_hex(13).upper()}-local"
        return response

    @api.errorhandler(Refused)
    def refused(exc: Refused) -> tuple[Response, int]:
        return jsonify(error=str(exc), **({"status": exc.code} if exc.code else {})), exc.status

    @api.errorhandler(HTTPException)
    def not_known(exc: HTTPException) -> Response:
        answer = Response(json.dumps({"error": exc.description}), exc.code or 500, mimetype="application/json")
        answer.headers.extend(header for header in exc.get_headers() if header[0] == "Allow")
        return answer

    api.extensions[GATE] = Gate(apps, limits)
    for resource in (app_routes, machines, details, volumes):
        api.register_blueprint(resource.routes)
    api.register_blueprint(missing.make_routes())
    return api
