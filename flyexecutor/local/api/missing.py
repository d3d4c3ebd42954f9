"""Operations that the API has and the local Fly has not: they are answered by 501 and a text that names them, so that
nobody takes them for a wrong address.
"""

from collections.abc import Callable
from typing import NoReturn

from flask import Blueprint

from flyexecutor.local.problems import Refused

APP = "/apps/<app_name>"
CERTIFICATE = f"{APP}/certificates/<hostname>"
KEY = f"{APP}/secretkeys/<secret_name>"
MACHINE = f"{APP}/machines/<machine_id>"
VOLUME = f"{APP}/volumes/<volume_id>"
MISSING = {
    ("GET", f"{APP}/certificates"): "certificates of an app",
    ("POST", f"{APP}/certificates/acme"): "a certificate by ACME",
    ("POST", f"{APP}/certificates/custom"): "a certificate of one's own",
    ("GET", CERTIFICATE): "a certificate",
    ("DELETE", CERTIFICATE): "the removal of a host name and its certificates",
    ("DELETE", f"{CERTIFICATE}/acme"): "the removal of certificates by ACME",
    ("DELETE", f"{CERTIFICATE}/custom"): "the removal of a certificate of one's own",
    ("POST", f"{CERTIFICATE}/check"): "the check of a certificate",
    ("POST", f"{APP}/deploy_token"): "tokens that may only deploy",
    ("GET", f"{APP}/ip_assignments"): "public addresses of an app",
    ("POST", f"{APP}/ip_assignments"): "a new public address",
    ("DELETE", f"{APP}/ip_assignments/<ip>"): "the removal of a public address",
    ("GET", f"{APP}/secretkeys"): "keys of an app",
    ("GET", KEY): "a key",
    ("POST", KEY): "setting a key",
    ("DELETE", KEY): "the removal of a key",
    ("POST", f"{KEY}/decrypt"): "decryption by a key",
    ("POST", f"{KEY}/encrypt"): "encryption by a key",
    ("POST", f"{KEY}/generate"): "a generated key",
    ("POST", f"{KEY}/sign"): "a signature by a key",
    ("POST", f"{KEY}/verify"): "the check of a signature",
    ("POST", f"{APP}/secrets"): "changing secrets (say them to LocalFly(secrets=...))",
    ("POST", f"{APP}/secrets/<secret_name>"): "setting a secret (say it to LocalFly(secrets=...))",
    ("DELETE", f"{APP}/secrets/<secret_name>"): "the removal of a secret",
    ("GET", f"{MACHINE}/memory"): "what memory a machine's balloon leaves",
    ("PUT", f"{MACHINE}/memory"): "a limit of a machine's memory",
    ("POST", f"{MACHINE}/memory/reclaim"): "reclaiming a machine's memory",
    ("PUT", VOLUME): "changing how a volume is backed up",
    ("GET", f"{VOLUME}/snapshots"): "snapshots of a volume",
    ("POST", f"{VOLUME}/snapshots"): "a snapshot of a volume",
    ("GET", "/orgs/<org_slug>/machines"): "all machines of an organisation",
    ("GET", "/orgs/<org_slug>/volumes"): "all volumes of an organisation",
    ("POST", "/platform/placements"): "where machines would find room",
    ("GET", "/platform/regions"): "regions and their room",
    ("POST", "/tokens/authenticate"): "the check of tokens",
    ("POST", "/tokens/authorize"): "the check of what a token may do",
    ("GET", "/tokens/current"): "what the token is",
    ("POST", "/tokens/kms"): "a token for the keys",
    ("POST", "/tokens/oidc"): "a token by which a machine says who it is",
}


def make_routes() -> Blueprint:
    """The routes of what is missing."""
    routes = Blueprint("missing", __name__, url_prefix="/v1")
    for (method, path), what in MISSING.items():
        routes.add_url_rule(path, f"{method} {path}", _refusal(what), methods=[method])
    return routes


def _refusal(what: str) -> Callable[..., NoReturn]:
    def refuse(**_: str) -> NoReturn:
        raise Refused(501, f"not implemented by the local Fly: {what}")

    return refuse
