"""Apps and their machines: who exists, and what a machine's process is given."""

import hashlib
import math
import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flyexecutor.local import code, files
from flyexecutor.local.billing import Meter
from flyexecutor.local.config import DEFAULT_MEMORY_MB, check_config, memory_mb
from flyexecutor.local.events import now
from flyexecutor.local.faults import Faults
from flyexecutor.local.host import Hosted
from flyexecutor.local.machine import Machine
from flyexecutor.local.output import Output
from flyexecutor.local.pace import Pace
from flyexecutor.local.problems import Refused
from flyexecutor.local.schedule import Schedules
from flyexecutor.local.sockets import Sockets
from flyexecutor.local.volumes import Volume, check_region, find_mounted

DEFAULT_REGION = "iad"
PASSING = {
    "image": "created",
    "boot": "starting",
    "resume": "starting",
    "suspend": "suspending",
    "stop": "stopping",
}
DIGEST_KEY = os.urandom(32)  # so that nobody finds a short secret by trying
DEFAULT_COMMAND = ["python", "-m", "flyexecutor.worker"]


class App:
    """An app: a name, secrets, machines, volumes."""

    def __init__(self, name: str, organization: str) -> None:
        self.name = name
        self.organization = organization
        self.created_at = now()
        self.secrets: dict[str, str] = {}
        self.machines: dict[str, Machine] = {}
        self.volumes: dict[str, Volume] = {}

    def describe(self) -> dict[str, Any]:
        """The app as the API shows it."""
        alive = sum(machine.state != "destroyed" for machine in list(self.machines.values()))
        return {
            "id": self.name,
            "name": self.name,
            "status": "deployed" if alive else "pending",
            "machine_count": alive,
            "volume_count": len(self.volumes),
            "network": "default",
            "organization": {"name": self.organization, "slug": self.organization},
        }

    def describe_secrets(self) -> list[dict[str, str]]:
        """The secrets as the API shows them: never a value. A digest tells only whether two of this run are equal."""
        return [
            {
                "name": name,
                "digest": hashlib.blake2b(value.encode(), digest_size=8, key=DIGEST_KEY).hexdigest(),
                "created_at": self.created_at,
                "updated_at": self.created_at,
            }
            for name, value in self.secrets.items()
        ]


class Apps:
    """All apps of this computer's Fly. One lock for who exists; machines have their own. It is the one place where all
    that machines share comes together (faults, meter, pace, schedules, sockets, output), an attribute for each.
    """

    def __init__(self, run: Path, *, machine_limit: int | None, show_output: bool, pace: Pace) -> None:
        self.sockets = Sockets(run)
        self.meter = Meter()
        self.faults = Faults()
        self._images: dict[str, Mapping[str, Any]] = {}
        self.run = run
        self._machine_limit = machine_limit
        self.pace = pace
        self.schedules = Schedules(pace)
        self.printed = Output()
        self._show_output = show_output
        self._lock = threading.Lock()
        self._apps: dict[str, App] = {}
        self._states: dict[str, str] = {}  # of all machines that ever were

    def create_app(self, name: str, organization: str) -> App:
        """Create an app."""
        with self._lock:
            if name in self._apps:
                raise Refused(422, f"Validation failed: Name has already been taken: {name!r}", "name_taken")
            self._apps[name] = app = App(name, organization)
            return app

    def all(self) -> list[App]:
        """Every app."""
        with self._lock:
            return list(self._apps.values())

    def add_image(self, image: Mapping[str, Any]) -> None:
        """Have an image: a name, and the Python, the folder and the environment that stand for what is in it."""
        self._images[image["name"]] = image

    def app(self, name: str) -> App:
        """An app by name."""
        with self._lock:
            if name not in self._apps:
                raise _no_app(name)
            return self._apps[name]

    def delete_app(self, name: str) -> None:
        """Delete an app and its machines."""
        app = self.app(name)
        with self._lock:
            self._apps.pop(name, None)  # first: from now on it gets no other machine
            machines = list(app.machines.values())
        for machine in machines:
            machine.destroy(force=True)

    def machine(self, app_name: str, machine_id: str) -> Machine:
        """A machine by id."""
        machine = self.app(app_name).machines.get(machine_id)
        if machine is None:
            raise Refused(404, f"machine not found: {machine_id}")
        return machine

    def create_machine(self, app_name: str, body: Mapping[str, Any]) -> Machine:
        """Create a machine, whose image is still to be fetched."""
        app = self.app(app_name)
        config = check_config(body.get("config"))
        self._check_image(config)
        with self._lock:
            if self._apps.get(app_name) is not app:
                raise _no_app(app_name)  # deleted meanwhile
            living = [machine for machine in app.machines.values() if machine.state != "destroyed"]
            name = body.get("name") or f"machine-{secrets.token_hex(6)}"
            for machine in living:
                if machine.name == name:
                    taken = f'machine ID {machine.id} already exists with name "{name}"'
                    raise Refused(409, f"already_exists: unique machine name violation, {taken}")
            if self._machine_limit is not None and len(living) >= self._machine_limit:
                raise Refused(422, f"organization has reached its machine limit of {self._machine_limit}")
            volume = find_mounted(config, app.volumes, living)
            # In order of preference; regions and nothing else: Fly's groups (eu, any) are not known here.
            wanted = body.get("region") or (volume.region if volume else DEFAULT_REGION)
            region = self.faults.choose_region(wanted.split(","))
            check_region(volume, region)
            machine = Machine(name, region, config, app=app.name, secrets_=app.secrets, host=self)
            app.machines[machine.id] = machine
        if body.get("lease_ttl"):
            machine.lease.take(float(body["lease_ttl"]), "", None)
        self.schedules.follow(machine)
        return machine

    def _check_image(self, config: Mapping[str, Any]) -> None:
        if config["image"] not in self._images:
            raise Refused(422, f"failed to get manifest {config['image']}: unknown image, not found in the registry")

    def check_update(self, machine: Machine, config: Mapping[str, Any]) -> None:
        """Raises Refused if a machine can't have the image or the volume of its new configuration."""
        self._check_image(config)
        app = self.app(machine.app)
        volume = find_mounted(config, app.volumes, list(app.machines.values()), machine.id)
        check_region(volume, machine.region)

    def create_volume(self, app_name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create a volume from the fields that are told. Answers it as the API shows it."""
        app = self.app(app_name)
        if not body.get("name"):
            raise Refused(422, "a volume needs a name")
        settings = ("size_gb", "encrypted", "auto_backup_enabled", "snapshot_retention")
        chosen = {name: body[name] for name in settings if body.get(name) is not None}
        volume = Volume(body["name"], body.get("region") or DEFAULT_REGION, **chosen)
        app.volumes[volume.id] = volume
        return volume.describe(())

    def list_volumes(self, app_name: str) -> list[dict[str, Any]]:
        """An app's volumes as the API shows them."""
        app = self.app(app_name)
        machines = list(app.machines.values())
        return [volume.describe(machines) for volume in list(app.volumes.values())]

    def describe_volume(self, app_name: str, volume_id: str) -> dict[str, Any]:
        """A volume as the API shows it."""
        app = self.app(app_name)
        return _volume(app, volume_id).describe(list(app.machines.values()))

    def delete_volume(self, app_name: str, volume_id: str) -> dict[str, Any]:
        """Delete a volume that no machine has. Answers what it was."""
        app = self.app(app_name)
        with self._lock:  # no machine that mounts it may be made meanwhile
            volume = _volume(app, volume_id)
            if holder := volume.holder(list(app.machines.values())):
                raise Refused(412, f"failed_precondition: volume is currently bound to machine: {holder.id}")
            del app.volumes[volume_id]
        return {**volume.describe(()), "state": "destroyed"}

    def extend_volume(self, app_name: str, volume_id: str, size_gb: int) -> dict[str, Any]:
        """Make a volume larger. Answers it as the API shows it."""
        app = self.app(app_name)
        with self._lock:
            app.volumes[volume_id] = _volume(app, volume_id).extended(size_gb)
        return self.describe_volume(app_name, volume_id)

    def lose_host(self, machine_id: str) -> None:
        """Lose the host of a machine of any app."""
        with self._lock:
            found = [app.machines[machine_id] for app in self._apps.values() if machine_id in app.machines]
        if not found:
            raise Refused(404, f"machine not found: {machine_id}")
        found[0].lose_host()

    def states(self) -> dict[str, str]:
        """Machine id to state, of destroyed machines and deleted apps too."""
        return self._states.copy()

    # What machines ask of their host

    def process_of(self, machine: Hosted, command: Sequence[str] = ()) -> tuple[list[str], dict[str, str], str]:
        """Command, environment and folder of a machine's main process, or of another command in it."""
        init = machine.config.get("init", {})
        main = init.get("exec") or [*(init.get("entrypoint") or ()), *(init.get("cmd") or ())] or DEFAULT_COMMAND
        command = list(command or main)
        image = self._images[machine.config["image"]]
        if command[0] == "python":  # of the image, whatever it is called here (python3 on Debian and macOS)
            command = [image["python"], *command[1:]]
        env = {
            **image["env"],
            **machine.secrets,
            **machine.config.get("env", {}),
            "FLY_APP_NAME": machine.app,
            "FLY_MACHINE_ID": machine.id,
            "FLY_ALLOC_ID": machine.id,
            "FLY_MACHINE_VERSION": machine.instance_id,
            "FLY_REGION": machine.region,
            "FLY_IMAGE_REF": machine.config["image"],
            "FLY_PRIVATE_IP": machine.private_ip,
            "FLY_PROCESS_GROUP": "",
            "FLY_VM_MEMORY_MB": str(memory_mb(machine.config) or DEFAULT_MEMORY_MB),
            "PRIMARY_REGION": DEFAULT_REGION,
            # Fly has no such variable: there the path is /.fly/api, which all machines of one computer can't share.
            "FLY_API_SOCKET": str(self.sockets.open(machine.id)),
        }
        if machine.config.get("files"):
            env[files.VARIABLE] = str(files.folder_of(self.run, machine.id))
        return command, env, image["cwd"]

    def edition(self, machine: Hosted) -> bytes:
        """Of the code in its image: another when that has been edited."""
        return code.edition(self._images[machine.config["image"]])

    def became(self, machine: Hosted) -> None:
        """What follows from a machine's new state; its lock is held."""
        self._states[machine.id] = machine.state
        self.meter.became(machine.id, machine.state)
        if machine.state == "destroyed":
            self.schedules.end(machine.id)
            self.sockets.close(machine.id)
            files.remove_files(files.folder_of(self.run, machine.id))

    def seconds_of(self, change: str) -> float:
        """How long a machine stays in a passing state."""
        return math.inf if self.faults.sticks(PASSING[change]) else self.pace.seconds_of(change)

    def output(self, machine: Hosted) -> int:
        """Where a machine's process writes."""
        return self.printed.open(machine.id) if self._show_output else os.open(os.devnull, os.O_WRONLY)


def _no_app(name: str) -> Refused:
    return Refused(404, f"app not found: could not find app {name!r}")


def _volume(app: App, volume_id: str) -> Volume:
    if volume_id not in app.volumes:
        raise Refused(404, f"volume not found: {volume_id}")
    return app.volumes[volume_id]
