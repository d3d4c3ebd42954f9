"""The process that serves the Machines API, started by the guard.

Reads its settings from standard input; the end of that input is the end of the guard, and of everything here.
"""

import json
import logging
import os
import secrets
import sys
import threading
from pathlib import Path

from werkzeug.serving import make_server

from flyexecutor.local import LocalError
from flyexecutor.local.api.application import make_api
from flyexecutor.local.api.faulty import add_faults
from flyexecutor.local.apps import Apps
from flyexecutor.local.control import add_control
from flyexecutor.local.limits import Limits
from flyexecutor.local.pace import Pace
from flyexecutor.local.processes import clean_up
from flyexecutor.local.redis import start_server
from flyexecutor.local.sockets import Handler


def main() -> int:
    """Serve until the guard goes."""
    settings = json.loads(sys.stdin.buffer.readline())
    run = Path(settings["run"])
    token, password = secrets.token_hex(24), secrets.token_hex(24)
    try:
        redis = start_server(run, password, settings["redis_port"])
        pace = Pace(**settings["pace"])
        apps = Apps(
            settings["image"],
            run,
            machine_limit=settings["machine_limit"],
            show_output=settings["show_output"],
            pace=pace,
        )
        apps.create_app(settings["app"], "personal").secrets.update(settings["secrets"])
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        api = make_api(apps, Limits(enforced=settings["rate_limits"], speed=pace.speed), token)
        add_faults(api, apps.faults)
        add_control(api, apps)
        apps.sockets.application = api
        try:
            server = make_server("127.0.0.1", settings["port"], api, threaded=True, request_handler=Handler)
        except (OSError, SystemExit):
            raise LocalError(f"port {settings['port']} of 127.0.0.1 is taken: choose another") from None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ready = {
            "server_pid": os.getpid(),
            "api_url": f"http://127.0.0.1:{server.port}",
            "token": token,
            "redis_url": f"redis://:{password}@127.0.0.1:{redis.port}/0",
            "redis_server": redis.description,
        }
        print(json.dumps(ready), flush=True)  # noqa: T201 - the owner reads it
        sys.stdin.buffer.readline()  # the guard's end
    except LocalError as exc:
        print(json.dumps({"error": str(exc)}), flush=True)  # noqa: T201 - the owner reads it
        return 1
    finally:
        clean_up(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
