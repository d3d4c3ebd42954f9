"""A stopped machine's start to its first result: against `python -c "import redis, cloudpickle"`."""

import statistics
import subprocess
import sys
import time

from benchmarks._measure import noop, seconds, show
from flyexecutor import FlyMachineExecutor, LocalFly
from flyexecutor.machines import MachinesClient

ROUNDS = 9


def main() -> None:
    """Measure and print."""
    with (
        LocalFly(rate_limits=False) as local,
        FlyMachineExecutor(local=local, max_workers=1, idle_timeout=0.0) as executor,
    ):
        machines = MachinesClient(local.api_url, local.app, local.token)
        taken = []
        first = executor.submit(noop)
        first.result()
        for _ in range(ROUNDS):
            machine = machines.get(first.machine_id)
            assert machine
            machines.wait_stopped(machine, 10.0)
            began = time.perf_counter()
            executor.submit(noop).result()
            taken.append((time.perf_counter() - began) * 1000)
        machines.close()
    floor = seconds(lambda: subprocess.run([sys.executable, "-c", "import redis, cloudpickle"], check=True), ROUNDS)
    rows = {
        "flyexecutor": statistics.median(taken),
        "python -c 'import redis, cloudpickle'": floor * 1000,
    }
    show("start of a stopped machine to first result (list, start, boot, join, call)", rows, "ms", "<= 1.3")


if __name__ == "__main__":
    main()
