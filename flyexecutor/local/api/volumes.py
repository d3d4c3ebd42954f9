"""Volumes of an app."""

from flask import Blueprint, Response, jsonify

from flyexecutor.local.api.asked import COUNT, FLAG, TEXT, read_body
from flyexecutor.local.api.gate import gate
from flyexecutor.local.problems import Refused

routes = Blueprint("volumes", __name__, url_prefix="/v1/apps/<app_name>/volumes")


@routes.get("")
def list_volumes(app_name: str) -> Response:
    gate().apps.app(app_name)
    gate().limit("list volumes", app_name)
    return jsonify(gate().apps.list_volumes(app_name))


@routes.post("")
def create_volume(app_name: str) -> Response:
    gate().apps.app(app_name)
    gate().limit("create volume", app_name)
    body = read_body(
        name=TEXT,
        region=TEXT,
        size_gb=COUNT,
        encrypted=FLAG,
        auto_backup_enabled=FLAG,
        snapshot_retention=COUNT,
        snapshot_id=TEXT,
        source_volume_id=TEXT,
    )
    if body["snapshot_id"] or body["source_volume_id"]:
        raise Refused(501, "not implemented by the local Fly: a volume made from a snapshot or another volume")
    return jsonify(gate().apps.create_volume(app_name, body))


@routes.get("/<volume_id>")
def get_volume(app_name: str, volume_id: str) -> Response:
    return jsonify(gate().apps.describe_volume(app_name, volume_id))


@routes.delete("/<volume_id>")
def delete_volume(app_name: str, volume_id: str) -> Response:
    gate().apps.describe_volume(app_name, volume_id)
    gate().limit("delete volume", volume_id)
    return jsonify(gate().apps.delete_volume(app_name, volume_id))


@routes.put("/<volume_id>/extend")
def extend_volume(app_name: str, volume_id: str) -> Response:
    gate().apps.describe_volume(app_name, volume_id)
    gate().limit("extend volume", volume_id)
    size_gb = read_body(size_gb=COUNT)["size_gb"]
    if size_gb is None:
        raise Refused(400, "size_gb is required")
    # A program sees nothing of a volume here, so that no restart would show it more.
    return jsonify(volume=gate().apps.extend_volume(app_name, volume_id, size_gb), needs_restart=False)
