"""What the owner of a LocalFly asks and Fly has not: routes below /local, with the API's token, neither limited nor
counted. `Control`, in the owner's process, is their client.
"""

from flask import Flask, Response, jsonify, request

from flyexecutor.local.apps import Apps
from flyexecutor.local.control import PREFIX


def add_control(api: Flask, apps: Apps) -> None:
    """Add the routes to the API."""

    @api.get(f"{PREFIX}billed")
    def billed() -> Response:
        return jsonify(apps.meter.billed())

    @api.get(f"{PREFIX}requests")
    def requests() -> Response:
        return jsonify(apps.meter.requests())

    @api.get(f"{PREFIX}states")
    def states() -> Response:
        return jsonify(apps.states())

    @api.post(f"{PREFIX}faults")
    def faults() -> Response:
        apps.faults.set(request.get_json())
        return jsonify(None)

    @api.post(f"{PREFIX}lose_host")
    def lose_host() -> Response:
        apps.lose_host(request.get_json())
        return jsonify(None)
