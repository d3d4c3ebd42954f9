"""A Machines API and a Redis on this computer, for development and tests.

The API speaks HTTP as Fly's does, its machines are real processes, its Redis is a real server. It knows nothing of
flyexecutor's client: `environ()` is all that an executor needs to use it instead of Fly.

Three processes: the owner (whoever made a LocalFly; one with a name may have several), the guard (`python -m
flyexecutor.local`) and the server. Each of the last two ends everything when the one above it, or beside it, is gone:
whatever single process is killed with -9, no process, socket or file stays behind.
"""

import hashlib
import importlib.util
import json
import math
import os
import re
import sys
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Self

from flyexecutor.local.connection import Connection, check_name
from flyexecutor.local.control import Control
from flyexecutor.local.problems import LocalError as LocalError

DEFAULT_IMAGE = "registry.fly.io/local:flyexecutor"
SECRET = re.compile(r"[A-Za-z0-9._~-]{8,}")  # what needs no quoting in an address, a header and Redis' settings
EACH_ITS_OWN = {"name", "show_output"}  # options in which those who share one may differ
HIDDEN = {"token", "password", "secrets"}


class LocalFly:
    """A running Machines API and Redis; ends with `close`, or with the process that made it.

    name: one for all processes of this computer's user that say this name, started by the first; it ends some seconds
        after the last has closed it or ended. Forked children count. Up to 40 letters, digits, - and _.
    keep: a folder in which Redis keeps its data, beside ports, token and password, for the next that is given it.
    app: name of the app that exists from the start.
    rate_limits: whether requests are limited as Fly documents it.
    secrets: the app's secrets (`fly secrets set`): environment variables of all its machines.
    machine_limit: how many machines the organisation may have; None for no limit.
    port, redis_port: on 127.0.0.1; 0 for a free one.
    token, password: of the API and of Redis, at least 8 letters, digits and . _ ~ -; left out: random ones.
    show_output: whether what machines print appears on this process's standard error, as `fly logs` shows it. (Of
        several that share one and show it: on that of the first.)
    image: seconds that a new machine stays in `created` while its image is fetched (at Fly some 6 s and more). Until
        then it can't be started; then it boots, or with `skip_launch` is `stopped`.
    boot, resume: seconds that a machine stays in `starting` when it boots cold (its program begins after them), or is
        resumed (its program goes on after them).
    suspend: seconds that it stays in `suspending`; a start meanwhile cancels the suspension.
    speed: how many times faster than on Fly time passes: fetches of images, boots, resumes, suspensions, intervals of
        schedules and the five minutes in which restarts are counted are that many times shorter (with 3600 an hour is
        a second), rate limits that many times higher (their bursts stay). Everything else takes real seconds: what
        machines run, the time that a stop gives them, waits, leases, what `billed` tells.

    Machines run in this process's current folder, with its `sys.path` and its Python, as if that were their image: each
    process that shares one has an image of its own if these differ, and thereby machines of its own. A machine whose
    code was edited while it was suspended boots instead of being resumed; one that is awake keeps what it has imported.
    They share this computer's file system: the `files` of a configuration lie below a folder of the machine's own,
    which its program finds in the environment variable FLY_FILES (`$FLY_FILES/etc/app.json` for `/etc/app.json`).
    Raises LocalError when it can't start, or if one of this name runs with other options than are given.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        keep: "str | os.PathLike[str] | None" = None,
        app: str = "local",
        rate_limits: bool = True,
        secrets: Mapping[str, str] | None = None,
        machine_limit: int | None = None,
        port: int = 0,
        redis_port: int = 0,
        token: str | None = None,
        password: str | None = None,
        show_output: bool = True,
        speed: float = 1.0,
        image: float = 1.0,
        boot: float = 0.0,
        resume: float = 0.0,
        suspend: float = 0.0,
    ) -> None:
        settings: dict[str, Any] = {
            "name": name,
            "keep": None if keep is None else os.path.abspath(keep),
            "app": app,
            "rate_limits": rate_limits,
            "secrets": _read_secrets(secrets or {}),
            "machine_limit": machine_limit,
            "port": port,
            "redis_port": redis_port,
            "token": token,
            "password": password,
            "show_output": show_output,
            "pace": {"speed": speed, "image": image, "boot": boot, "resume": resume, "suspend": suspend},
        }
        _check_settings(settings)
        contents = _image_contents()
        self.image = _name_image(contents) if name else DEFAULT_IMAGE
        settings["contents"] = {"name": self.image, **contents}
        environ = {**os.environ, "PYTHONPATH": contents["env"]["PYTHONPATH"]}
        self._connection = Connection(settings, environ, name=name)
        there = self._connection.greeting
        if differences := _differences(settings, there["settings"]):
            self.close()
            raise LocalError(f"a local Fly {name!r} runs already, and {'; '.join(differences)}")
        self.name = name
        self._read(there)

    def _read(self, greeting: Mapping[str, Any]) -> None:
        self.keep: str | None = greeting["settings"]["keep"]
        self.app: str = greeting["settings"]["app"]
        self.pid: int = greeting["pid"]
        self.server_pid: int = greeting["server_pid"]
        self.api_url: str = greeting["api_url"]
        self.redis_url: str = greeting["redis_url"]
        self.redis_server: str = greeting["redis_server"]
        self.token: str = greeting["token"]
        self._control = Control(int(self.api_url.rsplit(":", 1)[1]), self.token)

    def __repr__(self) -> str:
        return f"<LocalFly app={self.app!r} at {getattr(self, 'api_url', 'nowhere')}>"

    def environ(self) -> dict[str, str]:
        """The environment variables with which an executor uses this instead of Fly."""
        return {
            "FLY_API_HOSTNAME": self.api_url,
            "FLY_API_TOKEN": self.token,
            "FLY_TASKS_APP": self.app,
            "WORKER_IMAGE": self.image,
            "REDIS_URL": self.redis_url,
        }

    def billed(self) -> dict[str, float]:
        """For how many seconds each machine was billed so far, by machine id; destroyed machines included."""
        seconds: dict[str, float] = self._control.ask("billed")
        return seconds

    def requests(self) -> int:
        """How many requests the Machines API got so far, those through machines' own sockets and refused ones too."""
        return int(self._control.ask("requests"))

    def states(self) -> dict[str, str]:
        """The state of each machine by its id, destroyed machines included."""
        states: dict[str, str] = self._control.ask("states")
        return states

    def inject(
        self,
        *,
        seed: int = 0,
        latency: tuple[float, float] = (0.0, 0.0),
        too_many: float = 0.0,
        broken: float = 0.0,
        lost_answers: float = 0.0,
        no_answer: float = 0.0,
        no_capacity: Collection[str] = (),
        stuck: Collection[str] = (),
        invisible: float = 0.0,
        stays_created: bool = False,
        still_active: float = 0.0,
        suspend_mb: int = 4096,
    ) -> None:
        """Let the API go wrong from now on, instead of what was injected before; without arguments: go well again.

        seed: of all chances; the same sequence of requests goes wrong in the same way.
        latency: seconds from and to, by which each request is delayed.
        too_many: probability of a 429.
        broken: probability of a 500, 502 (plain text) or 503; nothing is carried out.
        lost_answers: probability that a request is carried out and its connection closed without an answer.
        no_answer: probability that it is not carried out and its connection closed.
        no_capacity: regions where no machine can be created, and no stopped one started.
        stuck: states in which machines that reach them stay: "created", "starting", "stopping", "suspending".
        invisible: seconds after its creation during which a machine answers 404 (a list has it).
        stays_created: a machine made with skip_launch stays `created` when its image is there, as Fly's documentation
            has it, instead of going on to `stopped`, as was seen there. It can be started then.
        still_active: seconds after its stop during which a machine can't be started, though it is `stopped` (412).
        suspend_mb: the largest memory of a machine that can be suspended; Fly's pages say 2 GB here and 4 GB there.
        Raises ValueError for other states.
        """
        self._control.ask(
            "faults",
            {
                "seed": seed,
                "latency": latency,
                "too_many": too_many,
                "broken": broken,
                "lost_answers": lost_answers,
                "no_answer": no_answer,
                "no_capacity": list(no_capacity),
                "stuck": list(stuck),
                "invisible": invisible,
                "stays_created": stays_created,
                "still_active": still_active,
                "suspend_mb": suspend_mb,
            },
        )

    def lose_host(self, machine_id: str) -> None:
        """Let the computer below a machine go: its processes end at once, its state stays what it was.

        From then on it has `host_status` "unreachable" and `incomplete_config` in place of `config`, and each action on
        it answers 503, a start 412 [unsure what Fly answers]. Raises ValueError if there is no such machine.
        """
        self._control.ask("lose_host", machine_id)

    def wait(self) -> None:
        """Return when it has ended, or this process has closed it."""
        self._connection.wait()

    def close(self) -> None:
        """End all machines, Redis and the API, and wait until they have ended; one with a name: use it no longer.

        A forked child's close ends nothing.
        """
        self._connection.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _check_settings(settings: Mapping[str, Any]) -> None:
    for module in ("flask", "psutil"):
        if importlib.util.find_spec(module) is None:
            raise LocalError(f"the local Machines API needs {module}: pip install 'flyexecutor[local]'")
    speed, *seconds = settings["pace"].values()
    if not 0 < speed < math.inf or not all(0 <= number < math.inf for number in seconds):
        rest = ", ".join(f"{name}={number!r}" for name, number in settings["pace"].items() if name != "speed")
        raise LocalError(f"speed={speed} must be above 0, and none of {rest} below")
    for name in ("port", "redis_port"):
        number = settings[name]
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 65536:
            raise LocalError(f"{name} is {number!r}: it must be a whole number from 0 to 65535 (0: a free one)")
    if not (isinstance(settings["app"], str) and settings["app"]):
        raise LocalError(f"app is {settings['app']!r}: it must be a name")
    if settings["name"] is not None:
        check_name(settings["name"])
    for name in ("token", "password"):
        given = settings[name]
        if given is not None and not (isinstance(given, str) and SECRET.fullmatch(given)):
            raise LocalError(f"the {name} that is given must be at least 8 letters, digits and . _ ~ -")


def _read_secrets(secrets: object) -> dict[str, str]:
    """Environment variables of machines. Raises LocalError for what can't be such, and tells none of it."""
    if isinstance(secrets, Mapping):
        texts = [text for pair in secrets.items() for text in pair]
        if all(isinstance(text, str) and "\0" not in text for text in texts):
            return dict(secrets)
    raise LocalError("secrets must be a dict of texts without NUL characters, as {'API_KEY': '...'}")


def _differences(settings: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """In what the options of one that runs differ from those that are given; what is left out may be anything."""
    if settings.keys() != there.keys() - {"grace"} or settings["pace"].keys() != there["pace"].keys():
        return ["it is of another version of flyexecutor"]
    here, there = (
        {**options, **options["pace"], "secrets": options["secrets"] or None} for options in (settings, there)
    )
    return [
        f"its {option} is another" if option in HIDDEN else f"its {option} is {there[option]!r}, not {here[option]!r}"
        for option, default in (LocalFly.__init__.__kwdefaults__ or {}).items()
        if option not in EACH_ITS_OWN and here[option] not in (default, there[option])
    ]


def _name_image(contents: Mapping[str, Any]) -> str:
    # In the repository, not the tag: images of one repository are taken for deploys of one program.
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return f"registry.fly.io/local-{digest[:12]}:flyexecutor"


def _image_contents() -> dict[str, Any]:
    """What stands for an image here: this folder, this Python and all that it can import."""
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        raise LocalError("the current folder, in which machines run, has been removed: go to another") from None
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if not entry.endswith(".zip"))
    programs = os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)))
    env = {"PATH": programs, "PYTHONPATH": path, "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"}
    return {"python": sys.executable, "cwd": folder, "env": env}
