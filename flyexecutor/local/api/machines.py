"""Machines and their life: which there are, and what they are asked to become."""

from flask import Blueprint, Response, jsonify, request

from flyexecutor.local.api.asked import COUNT, DURATION, FLAG, OBJECT, SIGNAL, TEXT, count, flag, read_body, words
from flyexecutor.local.api.gate import gate
from flyexecutor.local.config import check_config
from flyexecutor.local.durations import parse_duration, to_seconds
from flyexecutor.local.machine import Machine
from flyexecutor.local.problems import Refused
from flyexecutor.local.waiting import read_wait, wait_for

SUMMARY = (
    "id", "name", "state", "region", "instance_id", "version", "private_ip", "created_at", "updated_at", "cordoned",
)  # fmt: skip


routes = Blueprint("machines", __name__, url_prefix="/v1/apps/<app_name>/machines")


@routes.get("")
def list_machines(app_name: str) -> Response:
    machines = list(gate().apps.app(app_name).machines.values())  # in the order of their creation
    gate().limit("list", app_name)
    found = [machine for machine in _after_cursor(machines) if _is_wanted(machine)]
    page = found[: count("limit", 0) or None]
    answer = jsonify([_shown(machine) for machine in page])
    if len(page) < len(found):
        answer.headers["fly-next-cursor"] = page[-1].id
    return answer


@routes.post("")
def create_machine(app_name: str) -> Response:
    gate().apps.app(app_name)
    gate().limit("create", app_name)
    body = read_body(
        config=OBJECT,
        name=TEXT,
        region=TEXT,
        skip_launch=FLAG,
        lease_ttl=COUNT,
        skip_service_registration=FLAG,
    )
    machine = gate().apps.create_machine(app_name, body)
    machine.cordoned = bool(body["skip_service_registration"])
    shown = machine.describe()  # Fly answers with `created`; it boots by itself
    machine.fetch_image(launch=not body["skip_launch"])
    return jsonify(shown)


@routes.get("/<machine_id>")
def get_machine(app_name: str, machine_id: str) -> Response:
    return jsonify(gate().machine("get", app_name, machine_id, change=False).describe())


@routes.post("/<machine_id>")
def update_machine(app_name: str, machine_id: str) -> Response:
    machine = gate().machine("update", app_name, machine_id)
    body = read_body(config=OBJECT, current_version=TEXT, skip_launch=FLAG)
    config = check_config(body["config"])
    gate().apps.check_update(machine, config)
    machine.update(config, launch=not body["skip_launch"], current_version=body["current_version"])
    gate().apps.schedules.follow(machine)
    return jsonify(machine.describe())


@routes.delete("/<machine_id>")
def delete_machine(app_name: str, machine_id: str) -> Response:
    gate().machine("delete", app_name, machine_id).destroy(force=flag("force") or flag("kill"))
    return jsonify(ok=True)


@routes.post("/<machine_id>/start")
def start(app_name: str, machine_id: str) -> Response:
    before = gate().machine("start", app_name, machine_id).start()
    return jsonify(previous_state=before, migrated=False, new_host="")


@routes.post("/<machine_id>/stop")
def stop(app_name: str, machine_id: str) -> Response:
    machine = gate().machine("stop", app_name, machine_id)
    body = read_body(signal=SIGNAL, timeout=DURATION)
    timeout = None if body["timeout"] is None else to_seconds(body["timeout"])
    machine.stop(body["signal"], timeout)
    return jsonify(ok=True)


@routes.post("/<machine_id>/suspend")
def suspend(app_name: str, machine_id: str) -> Response:
    gate().machine("suspend", app_name, machine_id).suspend()
    return jsonify(ok=True)


@routes.post("/<machine_id>/restart")
def restart(app_name: str, machine_id: str) -> Response:
    machine = gate().machine("restart", app_name, machine_id)
    query = request.args
    timeout = 0.0 if flag("force_stop") else parse_duration(query["timeout"], 0.0) if "timeout" in query else None
    machine.restart(query.get("signal"), timeout)
    return jsonify(ok=True)


@routes.post("/<machine_id>/signal")
def send_signal(app_name: str, machine_id: str) -> Response:
    gate().machine("signal", app_name, machine_id).send_signal(read_body(signal=SIGNAL)["signal"] or "")
    return jsonify(ok=True)


@routes.get("/<machine_id>/wait")
def wait(app_name: str, machine_id: str) -> Response:
    machine = gate().machine("wait", app_name, machine_id, change=False)
    return jsonify(wait_for(machine, read_wait(request.args)))


def _after_cursor(machines: list[Machine]) -> list[Machine]:
    """What a list has not shown yet: a cursor is the id of the last that it showed."""
    if not (cursor := request.args.get("cursor")):
        return machines
    ids = [machine.id for machine in machines]
    if cursor not in ids:
        raise Refused(400, f"invalid_argument: unknown cursor {cursor[:60]!r}")
    return machines[ids.index(cursor) + 1 :]


def _is_wanted(machine: Machine) -> bool:
    """Whether the query asks for it."""
    metadata = machine.config.get("metadata") or {}
    query = request.args
    return (
        (machine.state != "destroyed" or flag("include_deleted"))
        and query.get("region") in {None, "", machine.region}
        and machine.state in (words("state") or {machine.state})
        and all(metadata.get(key[9:]) == value for key, value in query.items() if key.startswith("metadata."))
    )


def _shown(machine: Machine) -> dict[str, object]:
    """A machine as a list shows it."""
    shown = machine.describe()
    if flag("summary"):
        return {name: shown[name] for name in SUMMARY}
    if not flag("include_leases"):
        shown.pop("nonce", None)
    return shown
