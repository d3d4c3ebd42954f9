"""Details of a machine, beside its life: lease, metadata, events, versions, and what runs inside it."""

from typing import Any

from flask import Blueprint, Response, jsonify

from flyexecutor.local.api.asked import COUNT, OBJECT, TEXT, TEXTS, choice, count, read_body
from flyexecutor.local.api.gate import gate, nonce
from flyexecutor.local.inside import FIELDS, execute, list_processes, split_command
from flyexecutor.local.problems import Refused

LEASE_TTL = 60  # seconds, where a request says none [unsure: Fly's]
EXEC_TIMEOUT = 30  # seconds; on Fly commands that took longer were seen to end with 408
MOST_EVENTS = 50


routes = Blueprint("details", __name__, url_prefix="/v1/apps/<app_name>/machines/<machine_id>")


@routes.get("/lease")
def get_lease(app_name: str, machine_id: str) -> Response:
    machine = gate().machine("lease", app_name, machine_id, change=False)
    return jsonify(status="success", data=machine.lease.describe(machine.instance_id))


@routes.post("/lease")
def take_lease(app_name: str, machine_id: str) -> tuple[Response, int]:
    machine = gate().machine("lease", app_name, machine_id, change=False)
    body = read_body(ttl=COUNT, description=TEXT)
    ttl = body["ttl"] or count("ttl", LEASE_TTL) or LEASE_TTL  # Fly's Go client says it in the query
    machine.lease.take(ttl, body["description"] or "", nonce())
    return jsonify(status="success", data=machine.lease.describe(machine.instance_id)), 201


@routes.delete("/lease")
def release_lease(app_name: str, machine_id: str) -> Response:
    machine = gate().machine("lease", app_name, machine_id, change=False)
    machine.lease.release(nonce())
    return jsonify(status="success", data={"ok": True})


@routes.get("/metadata")
def get_metadata(app_name: str, machine_id: str) -> Response:
    machine = gate().machine("metadata", app_name, machine_id, change=False)
    return jsonify(machine.config.get("metadata") or {})


@routes.route("/metadata", methods=["PUT", "PATCH"])
def change_metadata(app_name: str, machine_id: str) -> tuple[str, int]:
    machine = gate().machine("metadata", app_name, machine_id)
    body = read_body(metadata=OBJECT, machine_version=TEXT)
    machine.change_metadata(_checked(body["metadata"]), version=body["machine_version"])
    return "", 204


@routes.get("/metadata/<key>")
def get_metadata_key(app_name: str, machine_id: str, key: str) -> Response:
    metadata = gate().machine("metadata", app_name, machine_id, change=False).config.get("metadata") or {}
    if key not in metadata:
        raise Refused(404, f"metadata not found: {key}")
    return jsonify(value=metadata[key])


@routes.post("/metadata/<key>")
def set_metadata_key(app_name: str, machine_id: str, key: str) -> tuple[str, int]:
    machine = gate().machine("metadata", app_name, machine_id)
    value = read_body(value=TEXT)["value"]
    if value is None:
        raise Refused(400, "value is required")
    machine.change_metadata({key: value})
    return "", 204


@routes.delete("/metadata/<key>")
def delete_metadata_key(app_name: str, machine_id: str, key: str) -> tuple[str, int]:
    gate().machine("metadata", app_name, machine_id).change_metadata({key: None})
    return "", 204


@routes.get("/events")
def list_events(app_name: str, machine_id: str) -> Response:
    machine = gate().machine("events", app_name, machine_id, change=False)
    return jsonify(machine.describe()["events"][: min(count("limit", 20), MOST_EVENTS)])


@routes.get("/versions")
def list_versions(app_name: str, machine_id: str) -> Response:
    machine = gate().machine("versions", app_name, machine_id, change=False)
    with machine.changed:
        versions = list(machine.versions)
    return jsonify([{"version": version, "user_config": config} for version, config in versions])


@routes.post("/cordon")
def cordon(app_name: str, machine_id: str) -> Response:
    gate().machine("cordon", app_name, machine_id).cordoned = True
    return jsonify(ok=True)


@routes.post("/uncordon")
def uncordon(app_name: str, machine_id: str) -> Response:
    gate().machine("uncordon", app_name, machine_id).cordoned = False
    return jsonify(ok=True)


@routes.post("/exec")
def execute_command(app_name: str, machine_id: str) -> Response:
    machine = gate().machine("exec", app_name, machine_id, change=False)
    body = read_body(command=TEXTS, cmd=TEXT, stdin=TEXT, timeout=COUNT)
    command = body["command"] or split_command(body["cmd"] or "")
    ended = execute(gate().apps, machine, command, body["stdin"] or "", body["timeout"] or EXEC_TIMEOUT)
    return jsonify(ended)


@routes.get("/ps")
def ps(app_name: str, machine_id: str) -> Response:
    machine = gate().machine("ps", app_name, machine_id, change=False)
    sort_by, order = choice("sort_by", FIELDS), choice("order", ("asc", "desc"))
    found = list_processes(machine)
    return jsonify(sorted(found, key=lambda process: process[sort_by], reverse=order == "desc"))


def _checked(changes: dict[str, Any] | None) -> dict[str, str | None]:
    """Values by key; null and the empty string remove one."""
    for key, value in (changes or {}).items():
        if value is not None and not TEXT.fits(value):
            raise Refused(400, f"metadata.{key} must be a string")
    return {key: value or None for key, value in (changes or {}).items()}
