"""What both web apps of the demo insist on: the names that they answer to, and the headers of every answer."""

import os

from flask import Flask, Response, request

THIS_COMPUTER = ("127.0.0.1", "localhost")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def on_fly() -> bool:
    """Whether this process runs in a machine at Fly, behind Fly's proxy: there its headers can be believed."""
    return "FLY_APP_NAME" in os.environ


def page_hosts() -> list[str]:
    """The names of the demo's page: Fly's, or this computer's, and the visitors' own in TRUSTED_HOSTS."""
    own = [name for part in os.environ.get("TRUSTED_HOSTS", "").split(",") if (name := part.strip())]
    for name in own:
        if "/" in name or "*" in name:
            raise RuntimeError(
                f"TRUSTED_HOSTS has {name!r}: write names with commas in between, like www.example.com, "
                "or .example.com for all below it"
            )
    return [*own, f"{os.environ['FLY_APP_NAME']}.fly.dev"] if on_fly() else [*own, *THIS_COMPUTER]


def protect(app: Flask, hosts: list[str]) -> None:
    """Have an app answer to these names only: no other page can lead a browser here by a name of its own."""
    app.config["TRUSTED_HOSTS"] = hosts

    @app.after_request
    def head(response: Response) -> Response:
        response.headers.update(HEADERS)
        if request.is_secure:
            response.headers["Strict-Transport-Security"] = "max-age=31536000"
        if request.endpoint != "static":
            response.headers["Cache-Control"] = "no-store"
        return response
