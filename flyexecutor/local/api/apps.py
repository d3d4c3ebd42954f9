"""Apps and what is kept of their secrets: names and digests, never a value."""

import re

from flask import Blueprint, Response, jsonify, request

from flyexecutor.local.api.asked import TEXT, read_body
from flyexecutor.local.api.gate import gate
from flyexecutor.local.problems import Refused

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


routes = Blueprint("apps", __name__, url_prefix="/v1/apps")


@routes.get("")
def list_apps() -> Response:
    if not (organization := request.args.get("org_slug")):
        raise Refused(400, "org_slug is required")
    found = [app.describe() for app in gate().apps.all() if app.organization == organization]
    return jsonify(total_apps=len(found), apps=found)


@routes.post("")
def create_app() -> tuple[Response, int]:
    # Fly's documentation says app_name, its newest document and Go client name.
    body = read_body(app_name=TEXT, name=TEXT, org_slug=TEXT)
    name, organization = body["name"] or body["app_name"], body["org_slug"]
    if not name or not organization:
        raise Refused(400, "name and org_slug are required")
    if not NAME.fullmatch(name):
        raise Refused(422, "Validation failed: Name may only contain numbers, lower-case letters and dashes")
    # The document shows an id at most; Fly's Go client reads an app.
    return jsonify(gate().apps.create_app(name, organization).describe()), 201


@routes.get("/<app_name>")
def get_app(app_name: str) -> Response:
    return jsonify(gate().apps.app(app_name).describe())


@routes.delete("/<app_name>")
def delete_app(app_name: str) -> tuple[str, int]:
    gate().apps.delete_app(app_name)
    return "", 202


@routes.get("/<app_name>/secrets")
def list_secrets(app_name: str) -> Response:
    return jsonify(secrets=gate().apps.app(app_name).describe_secrets())


@routes.get("/<app_name>/secrets/<secret_name>")
def get_secret(app_name: str, secret_name: str) -> Response:
    for secret in gate().apps.app(app_name).describe_secrets():
        if secret["name"] == secret_name:
            return jsonify(secret)
    raise Refused(404, f"secret not found: {secret_name}")
