"""Apps and their machines: what is allowed, what a configuration may say, and what a machine's process is given."""

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flyexecutor.local.machine import Machine, parse_duration
from flyexecutor.local.problems import Refused

PRESETS = {
    **{f"shared-cpu-{n}x": ("shared", n, 256 * n) for n in (1, 2, 4, 6, 8)},
    **{f"performance-{n}x": ("performance", n, 2048 * n) for n in (1, 2, 4, 6, 8, 10, 12, 14, 16)},
}  # Fly: name -> cpu kind, cpus, memory in MB
DEFAULT_REGION = "iad"
DEFAULT_COMMAND = ["python", "-m", "flyexecutor.worker"]


class App:
    """An app: a name, secrets, machines."""

    def __init__(self, name: str, organization: str) -> None:
        self.name = name
        self.organization = organization
        self.secrets: dict[str, str] = {}
        self.machines: dict[str, Machine] = {}

    def describe(self) -> dict[str, Any]:
        """The app as the API shows it."""
        alive = any(machine.state != "destroyed" for machine in self.machines.values())
        organization = {"name": self.organization, "slug": self.organization}
        return {"id": self.name, "name": self.name, "status": "deployed" if alive else "pending",
                "machine_count": len(self.machines), "organization": organization}  # fmt: skip


class Apps:
    """All apps of this computer's Fly. One lock for who exists; machines have their own."""

    def __init__(self, image: Mapping[str, Any], run: Path, *, machine_limit: int | None, show_output: bool) -> None:
        self._image = image
        self._run = run
        self._machine_limit = machine_limit
        self._show_output = show_output
        self._lock = threading.Lock()
        self._apps: dict[str, App] = {}

    def create_app(self, name: str, organization: str) -> App:
        """Create an app."""
        with self._lock:
            if name in self._apps:
                raise Refused(422, f"Validation failed: Name has already been taken: {name!r}")
            self._apps[name] = app = App(name, organization)
            return app

    def app(self, name: str) -> App:
        """An app by name."""
        with self._lock:
            if name not in self._apps:
                raise Refused(404, f"app not found: could not find app {name!r}")
            return self._apps[name]

    def delete_app(self, name: str) -> None:
        """Delete an app and its machines."""
        app = self.app(name)
        for machine in list(app.machines.values()):
            machine.destroy(force=True)
        with self._lock:
            del self._apps[name]

    def machine(self, app_name: str, machine_id: str) -> Machine:
        """A machine by id."""
        machine = self.app(app_name).machines.get(machine_id)
        if machine is None:
            raise Refused(404, f"machine not found: {machine_id}")
        return machine

    def create_machine(self, app_name: str, body: Mapping[str, Any]) -> Machine:
        """Create a machine, and boot it unless `skip_launch`."""
        app = self.app(app_name)
        config = check_config(body.get("config"))
        if config["image"] != self._image["name"]:
            raise Refused(422, f"failed to get manifest {config['image']}: unknown image, not found in the registry")
        with self._lock:
            living = [machine for machine in app.machines.values() if machine.state != "destroyed"]
            name = body.get("name") or f"machine-{len(app.machines) + 1}"
            for machine in living:
                if machine.name == name:
                    raise Refused(422, f"unique machine name violation: name {name!r} is used by machine {machine.id}")
            if self._machine_limit is not None and len(living) >= self._machine_limit:
                raise Refused(403, f"organization has reached its machine limit of {self._machine_limit}")
            machine = Machine(
                name,
                body.get("region") or DEFAULT_REGION,
                config,
                run=self._run,
                output=self._output,
                launch=lambda one: self._process_of(app, one),
            )
            app.machines[machine.id] = machine
        if body.get("lease_ttl"):
            machine.lease(float(body["lease_ttl"]), "", None)
        return machine

    def _process_of(self, app: App, machine: Machine) -> tuple[list[str], dict[str, str], str]:
        """Command, environment and folder of a machine's process."""
        init = machine.config.get("init") or {}
        command = init.get("exec") or [*(init.get("entrypoint") or ()), *(init.get("cmd") or ())] or DEFAULT_COMMAND
        memory = (machine.config.get("guest") or {}).get("memory_mb", 256)
        env = {
            **self._image["env"],
            **app.secrets,
            **(machine.config.get("env") or {}),
            "FLY_APP_NAME": app.name,
            "FLY_MACHINE_ID": machine.id,
            "FLY_ALLOC_ID": machine.id,
            "FLY_MACHINE_VERSION": machine.instance_id,
            "FLY_REGION": machine.region,
            "FLY_IMAGE_REF": machine.config["image"],
            "FLY_PRIVATE_IP": machine.private_ip,
            "FLY_PROCESS_GROUP": "",
            "FLY_VM_MEMORY_MB": str(memory),
            "PRIMARY_REGION": DEFAULT_REGION,
        }
        return command, env, self._image["cwd"]

    def _output(self, machine: Machine) -> int:
        """Where a machine's process writes: to our standard error line by line, or nowhere."""
        if not self._show_output:
            return os.open(os.devnull, os.O_WRONLY)
        readable, writable = os.pipe()

        def show() -> None:
            with os.fdopen(readable, "rb") as lines:
                for line in lines:
                    sys.stderr.buffer.write(b"[%s] %s" % (machine.id.encode(), line))
                    sys.stderr.buffer.flush()

        threading.Thread(target=show, name=f"output {machine.id}", daemon=True).start()
        return writable


def check_config(config: object) -> dict[str, Any]:
    """A machine configuration that is complete and consistent. Raises Refused as Fly does."""
    if not isinstance(config, dict) or not config.get("image"):
        raise Refused(400, "config.image is required")
    guest, size = config.get("guest"), config.get("size")
    if guest and size:
        raise Refused(400, "size and guest are mutually exclusive")
    if size and size not in PRESETS:
        raise Refused(422, f"invalid machine size requested, {size!r}")
    if guest:
        if guest.get("cpu_kind", "shared") not in {"shared", "performance"}:
            raise Refused(422, f"invalid config.guest.cpu_kind {guest['cpu_kind']!r}")
        if int(guest.get("memory_mb", 256)) % 256:
            raise Refused(422, f"invalid config.guest.memory_mb {guest['memory_mb']}: must be in a 256 MiB increment")
    restart = (config.get("restart") or {}).get("policy")
    if restart not in {None, "no", "on-failure", "always"}:
        raise Refused(400, f"invalid restart policy {restart!r}")
    for name, value in (config.get("env") or {}).items():
        if not isinstance(value, str):
            raise Refused(400, f"config.env.{name} must be a string")
    parse_duration((config.get("stop_config") or {}).get("timeout"), 0.0)
    return config
