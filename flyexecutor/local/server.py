"""The process that serves the Machines API, started by the guard.

Its standard input is the guard's socket: its settings come from there, and there it says where everything is. The end
of that input is the end of the guard, and of everything here.
"""

import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from werkzeug.serving import make_server

from flyexecutor.local.address import Address
from flyexecutor.local.api.application import make_api
from flyexecutor.local.api.control import add_control
from flyexecutor.local.api.faulty import add_faults
from flyexecutor.local.apps import Apps
from flyexecutor.local.limits import Limits
from flyexecutor.local.pace import Pace
from flyexecutor.local.problems import LocalError
from flyexecutor.local.processes import clean_up
from flyexecutor.local.redis import start_server
from flyexecutor.local.sockets import Handler


def main() -> int:
    """Serve until the guard goes."""
    settings = json.loads(sys.stdin.buffer.readline())
    run = Path(settings["run"])
    try:
        _serve(settings, run)
    except LocalError as exc:
        _tell_guard({"error": str(exc)})
        return 1
    finally:
        clean_up(run)
    return 0


def _serve(settings: dict[str, Any], run: Path) -> None:
    address = Address.read(settings)
    redis = start_server(run, address.password, address.redis_port, settings["keep"])
    pace = Pace(**settings["pace"])
    # Whether it is shown is for each process that shares a local Fly to say.
    show_output = settings["show_output"] or bool(settings["name"])
    apps = Apps(run, machine_limit=settings["machine_limit"], show_output=show_output, pace=pace)
    apps.create_app(settings["app"], "personal").secrets.update(settings["secrets"])
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    api = make_api(apps, Limits(enforced=settings["rate_limits"], speed=pace.speed), address.token)
    add_faults(api, apps.faults)
    add_control(api, apps)
    apps.sockets.application = api
    try:
        server = make_server("127.0.0.1", address.port, api, threaded=True, request_handler=Handler)
    except (OSError, SystemExit):
        raise LocalError(f"port {address.port} of 127.0.0.1 is taken: choose another") from None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address.write(settings, server.port, redis.port)
    _tell_guard(
        {
            "server_pid": os.getpid(),
            "api_url": f"http://127.0.0.1:{server.port}",
            "token": address.token,
            "redis_url": f"redis://:{address.password}@127.0.0.1:{redis.port}/0",
            "redis_server": redis.description,
        }
    )
    try:
        for line in sys.stdin.buffer:  # until the guard's end
            if image := json.loads(line):
                apps.add_image(image)
            else:  # who leaves is to see what has been printed
                apps.printed.drain()
            _tell_guard({})
    finally:
        clean_up(run)
        apps.printed.drain()


def _tell_guard(message: dict[str, Any]) -> None:
    os.write(sys.stdin.fileno(), json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
