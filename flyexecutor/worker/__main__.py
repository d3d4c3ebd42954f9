"""`python -m flyexecutor.worker`: the environment to settings, then the loop. Ends with 0 when it has left its lane.

The runners are started before this process loads what it needs itself: both load at the same time.
"""

import os
import sys

from flyexecutor.environment import Idle, MachineEnvironment
from flyexecutor.errors import SettingsError
from flyexecutor.worker.runner_process import RunnerProcess


def main() -> int:
    """Run as a worker until there is nothing to do. Answers the exit code."""
    try:
        machine = MachineEnvironment.from_env(os.environ)
    except SettingsError as exc:
        print(  # noqa: T201 - a machine's standard error is its log
            f"flyexecutor worker: {exc}: this program is started by an executor, in a machine", file=sys.stderr
        )
        return 1
    runners = [RunnerProcess() for _ in range(machine.concurrency)]

    from flyexecutor.worker.loop import Worker  # noqa: PLC0415 - see above

    worker = Worker(
        runners,
        app=machine.app,
        trust=machine.make_trust(),
        machine_id=machine.machine_id,
        region=machine.region,
        lane=machine.lane,
        redis_url=machine.redis_url,
        idle_timeout=machine.idle_timeout,
        max_lifetime=machine.max_lifetime,
        idle=machine.idle or Idle.END,
        scheduled=machine.scheduled,
        warmup=machine.warmup,
    )
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
