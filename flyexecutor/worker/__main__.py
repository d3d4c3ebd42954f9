"""`python -m flyexecutor.worker`: the environment to settings, then the loop. Ends with 0 when it has left its lane.

The runners are started before this process loads what it needs itself: both load at the same time.
"""

import base64
import os
import sys

from flyexecutor.payload.trust import KEY_VARIABLE, Trust
from flyexecutor.settings import (
    IDLE_VARIABLE,
    LANE_VARIABLE,
    REDIS_VARIABLE,
    SCHEDULED_VARIABLE,
    SUSPEND,
    WARMUP_VARIABLE,
)
from flyexecutor.worker.runner_process import RunnerProcess

NEEDED = ("FLY_APP_NAME", "FLY_MACHINE_ID", REDIS_VARIABLE, LANE_VARIABLE, KEY_VARIABLE)


def main() -> int:
    """Run as a worker until there is nothing to do. Answers the exit code."""
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        print(  # noqa: T201 - a machine's standard error is its log
            f"flyexecutor worker: {', '.join(missing)} not set: this program is started by an executor, in a machine",
            file=sys.stderr,
        )
        return 1
    runners = [RunnerProcess() for _ in range(int(os.environ.get("FLYEXECUTOR_CONCURRENCY", "1")))]

    from flyexecutor.worker.loop import Worker  # noqa: PLC0415 - see above

    worker = Worker(
        runners,
        app=os.environ["FLY_APP_NAME"],
        trust=Trust.of_machine(os.environ, os.environ["FLY_APP_NAME"]),
        machine_id=os.environ["FLY_MACHINE_ID"],
        region=os.environ.get("FLY_REGION", ""),
        lane=os.environ[LANE_VARIABLE],
        redis_url=os.environ[REDIS_VARIABLE],
        idle_timeout=float(os.environ.get("FLYEXECUTOR_IDLE_TIMEOUT", "10")),
        max_lifetime=float(os.environ.get("FLYEXECUTOR_MAX_LIFETIME", "86400")),
        suspends=os.environ.get(IDLE_VARIABLE) == SUSPEND,
        scheduled=os.environ.get(SCHEDULED_VARIABLE, ""),
        warmup=base64.b64decode(os.environ.get(WARMUP_VARIABLE, "")),
    )
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
