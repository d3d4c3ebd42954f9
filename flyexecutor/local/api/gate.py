"""What stands before each route: which machine is meant, whether the request comes too soon, who may change it."""

from typing import cast

from flask import current_app, request

from flyexecutor.local.apps import Apps
from flyexecutor.local.limits import Limits
from flyexecutor.local.machine import Machine
from flyexecutor.local.problems import Refused
from flyexecutor.local.sockets import OWN

GATE = "gate"  # among the application's extensions


class Gate:
    """All apps, and the limits that hold for requests."""

    def __init__(self, apps: Apps, limits: Limits) -> None:
        self.apps = apps
        self._limits = limits

    def limit(self, action: str, identifier: str) -> None:
        """Raises Refused for a request that comes too soon."""
        if not self._limits.allow(action, identifier):
            raise Refused(429, "resource_exhausted: rate limit exceeded")

    def machine(self, action: str, app_name: str, machine_id: str, *, change: bool = True) -> Machine:
        """The machine that a request is about. Raises Refused if there is none, or the request may not do this now."""
        machine = self.apps.machine(app_name, machine_id)
        if machine.is_hidden() and OWN not in request.environ:  # its own host knows it at once
            raise Refused(404, f"machine not found: {machine_id}")
        self.limit(action, machine_id)
        if change or action in {"lease", "exec", "ps"}:
            machine.check_host(action)
        if change:
            machine.lease.check(nonce())
        return machine


def gate() -> Gate:
    """The one of the application that answers the request."""
    return cast("Gate", current_app.extensions[GATE])


def nonce() -> str | None:
    """By which a request says that it holds the machine's lease."""
    return request.headers.get("fly-machine-lease-nonce")
