"""The Machines API over HTTP: routes, tokens and error bodies. A process of its own, started by the guard.

Reads its settings from standard input; the end of that input is the end of the guard, and of everything here.
"""

import json
import logging
import os
import secrets
import sys
import threading
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server

from flyexecutor.local import LocalError
from flyexecutor.local.apps import Apps
from flyexecutor.local.config import check_config, parse_duration
from flyexecutor.local.control import PREFIX, add_control
from flyexecutor.local.faults import add_faults
from flyexecutor.local.limits import Limits
from flyexecutor.local.machine import Machine
from flyexecutor.local.pace import Pace
from flyexecutor.local.problems import Refused
from flyexecutor.local.processes import clean_up
from flyexecutor.local.redis import start_server
from flyexecutor.local.sockets import OWN, Handler, may_pass

WAIT_STATES = {"started", "stopped", "suspended", "destroyed"}


def make_api(apps: Apps, limits: Limits, token: str) -> Flask:  # noqa: PLR0915 - a list of routes
    """The API as a Flask application."""
    api = Flask(__name__)

    def limited(action: str, identifier: str) -> None:
        if not limits.allow(action, identifier):
            raise Refused(429, "resource_exhausted: rate limit exceeded")

    def machine_for(action: str, app_name: str, machine_id: str, *, change: bool = True) -> Machine:
        machine = apps.machine(app_name, machine_id)
        limited(action, machine_id)
        if change or action == "lease":
            machine.check_host(action)
        if change:
            machine.lease.check(request.headers.get("fly-machine-lease-nonce"))
        return machine

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
    def not_known(exc: HTTPException) -> tuple[Response, int]:
        return jsonify(error=exc.description), exc.code or 500

    @api.post("/v1/apps")
    def create_app() -> tuple[Response, int]:
        body = _body()
        if not body.get("app_name") or not body.get("org_slug"):
            raise Refused(400, "app_name and org_slug are required")
        return jsonify(id=apps.create_app(body["app_name"], body["org_slug"]).name), 201

    @api.get("/v1/apps/<app_name>")
    def get_app(app_name: str) -> Response:
        return jsonify(apps.app(app_name).describe())

    @api.delete("/v1/apps/<app_name>")
    def delete_app(app_name: str) -> tuple[str, int]:
        apps.delete_app(app_name)
        return "", 202

    @api.post("/v1/apps/<app_name>/volumes")
    def create_volume(app_name: str) -> Response:
        limited("create volume", app_name)
        return jsonify(apps.create_volume(app_name, _body()))

    @api.get("/v1/apps/<app_name>/volumes")
    def list_volumes(app_name: str) -> Response:
        limited("list volumes", app_name)
        return jsonify(apps.list_volumes(app_name))

    @api.get("/v1/apps/<app_name>/machines")
    def list_machines(app_name: str) -> Response:
        machines = list(apps.app(app_name).machines.values())
        limited("list", app_name)
        query = request.args
        wanted = {key.removeprefix("metadata."): value for key, value in query.items() if key.startswith("metadata.")}
        if query.get("include_deleted") != "true":
            machines = [machine for machine in machines if machine.state != "destroyed"]
        if region := query.get("region"):
            machines = [machine for machine in machines if machine.region == region]
        machines = [machine for machine in machines if wanted.items() <= (machine.config.get("metadata") or {}).items()]
        return jsonify([machine.describe() for machine in machines])

    @api.post("/v1/apps/<app_name>/machines")
    def create_machine(app_name: str) -> Response:
        apps.app(app_name)
        limited("create", app_name)
        body = _body()
        machine = apps.create_machine(app_name, body)
        told = machine.describe()  # Fly answers with `created`; it boots by itself
        machine.fetch_image(launch=not body.get("skip_launch"))
        return jsonify(told)

    @api.get("/v1/apps/<app_name>/machines/<machine_id>")
    def get_machine(app_name: str, machine_id: str) -> Response:
        return jsonify(machine_for("get", app_name, machine_id, change=False).describe())

    @api.post("/v1/apps/<app_name>/machines/<machine_id>")
    def update_machine(app_name: str, machine_id: str) -> Response:
        machine = machine_for("update", app_name, machine_id)
        body = _body()
        config = check_config(body.get("config"))
        if body.get("current_version") not in {None, machine.instance_id}:
            raise Refused(412, f"current_version is {body['current_version']}, the machine has {machine.instance_id}")
        apps.check_update(machine, config)
        machine.update(config, launch=not body.get("skip_launch"))
        apps.schedules.follow(machine)
        return jsonify(machine.describe())

    @api.delete("/v1/apps/<app_name>/machines/<machine_id>")
    def delete_machine(app_name: str, machine_id: str) -> Response:
        force = "true" in {request.args.get("force"), request.args.get("kill")}
        machine_for("delete", app_name, machine_id).destroy(force=force)
        return jsonify(ok=True)

    @api.post("/v1/apps/<app_name>/machines/<machine_id>/start")
    def start_machine(app_name: str, machine_id: str) -> Response:
        before = machine_for("start", app_name, machine_id).start()
        return jsonify(previous_state=before, migrated=False, new_host="")

    @api.post("/v1/apps/<app_name>/machines/<machine_id>/stop")
    def stop_machine(app_name: str, machine_id: str) -> Response:
        machine = machine_for("stop", app_name, machine_id)
        body = _body()
        timeout = parse_duration(body["timeout"], 0.0) if "timeout" in body else None
        machine.stop(body.get("signal"), timeout)
        return jsonify(ok=True)

    @api.post("/v1/apps/<app_name>/machines/<machine_id>/suspend")
    def suspend_machine(app_name: str, machine_id: str) -> Response:
        machine_for("suspend", app_name, machine_id).suspend()
        return jsonify(ok=True)

    @api.post("/v1/apps/<app_name>/machines/<machine_id>/restart")
    def restart_machine(app_name: str, machine_id: str) -> Response:
        machine = machine_for("restart", app_name, machine_id)
        query = request.args
        forced = query.get("force_stop") == "true"
        timeout = 0.0 if forced else parse_duration(query["timeout"], 0.0) if "timeout" in query else None
        machine.restart(query.get("signal"), timeout)
        return jsonify(ok=True)

    @api.post("/v1/apps/<app_name>/machines/<machine_id>/signal")
    def signal_machine(app_name: str, machine_id: str) -> Response:
        machine = machine_for("signal", app_name, machine_id)
        machine.send_signal(_body().get("signal") or "")
        return jsonify(ok=True)

    @api.get("/v1/apps/<app_name>/machines/<machine_id>/wait")
    def wait_machine(app_name: str, machine_id: str) -> Response:
        machine = machine_for("wait", app_name, machine_id, change=False)
        state = request.args.get("state", "started")
        if state not in WAIT_STATES:
            raise Refused(400, f"invalid_argument: unknown state {state!r}")
        instance_id = request.args.get("instance_id") or request.args.get("version")
        if state in {"stopped", "suspended"} and not instance_id:
            raise Refused(400, f"instance_id required when waiting for {state} machine")
        timeout = parse_duration(request.args.get("timeout"), 60.0)
        if not 1 <= timeout <= 60:
            raise Refused(400, "invalid_argument: timeout must be between 1 and 60 seconds")
        if not machine.wait({state}, timeout):
            raise Refused(408, f"machine failed to reach desired state, {state}, currently {machine.state}")
        return jsonify(ok=True)

    @api.route("/v1/apps/<app_name>/machines/<machine_id>/lease", methods=["GET", "POST", "DELETE"])
    def lease(app_name: str, machine_id: str) -> tuple[Response, int]:
        machine = machine_for("lease", app_name, machine_id, change=False)
        nonce = request.headers.get("fly-machine-lease-nonce")
        if request.method == "DELETE":
            machine.lease.release(nonce)
            return jsonify(ok=True), 200
        if request.method == "GET":
            return jsonify(status="success", data=machine.lease.describe(machine.instance_id)), 200
        body = _body()
        machine.lease.take(float(body.get("ttl") or 60), body.get("description") or "", nonce)
        return jsonify(status="success", data=machine.lease.describe(machine.instance_id)), 201

    @api.get("/v1/apps/<app_name>/machines/<machine_id>/metadata")
    def get_metadata(app_name: str, machine_id: str) -> Response:
        machine = machine_for("metadata", app_name, machine_id, change=False)
        return jsonify(machine.config.get("metadata") or {})

    @api.route("/v1/apps/<app_name>/machines/<machine_id>/metadata/<key>", methods=["POST", "DELETE"])
    def change_metadata(app_name: str, machine_id: str, key: str) -> tuple[str, int]:
        metadata = machine_for("metadata", app_name, machine_id).config.setdefault("metadata", {})
        if request.method == "DELETE":
            metadata.pop(key, None)
        else:
            metadata[key] = str(_body()["value"])
        return "", 204

    @api.get("/v1/apps/<app_name>/machines/<machine_id>/events")
    def list_events(app_name: str, machine_id: str) -> Response:
        return jsonify(machine_for("events", app_name, machine_id, change=False).describe()["events"])

    return api


def _body() -> dict[str, Any]:
    if not request.data:
        return {}
    told = request.get_json(silent=True, force=True)
    if not isinstance(told, dict):
        raise Refused(400, "the body must be a JSON object")
    return told


def main() -> int:
    """Serve until the guard goes."""
    settings = json.loads(sys.stdin.buffer.readline())
    run = Path(settings["run"])
    token, password = secrets.token_hex(24), secrets.token_hex(24)
    try:
        redis = start_server(run, password, settings["redis_port"])
        pace = Pace(**settings["pace"])
        apps = Apps(
            settings["image"],
            run,
            machine_limit=settings["machine_limit"],
            show_output=settings["show_output"],
            pace=pace,
        )
        apps.create_app(settings["app"], "personal").secrets.update(settings["secrets"])
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        api = make_api(apps, Limits(enforced=settings["rate_limits"], speed=pace.speed), token)
        add_faults(api, apps.faults)
        add_control(api, apps)
        apps.sockets.application = api
        try:
            server = make_server("127.0.0.1", settings["port"], api, threaded=True, request_handler=Handler)
        except (OSError, SystemExit):
            raise LocalError(f"port {settings['port']} of 127.0.0.1 is taken: choose another") from None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ready = {
            "server_pid": os.getpid(),
            "api_url": f"http://127.0.0.1:{server.port}",
            "token": token,
            "redis_url": f"redis://:{password}@127.0.0.1:{redis.port}/0",
            "redis_server": redis.description,
        }
        print(json.dumps(ready), flush=True)  # noqa: T201 - the owner reads it
        sys.stdin.buffer.readline()  # the guard's end
    except LocalError as exc:
        print(json.dumps({"error": str(exc)}), flush=True)  # noqa: T201 - the owner reads it
        return 1
    finally:
        clean_up(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
