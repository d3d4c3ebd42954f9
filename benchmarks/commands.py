"""Redis commands as a provider bills them, in a fan-out, for a lone call and while idle; there is no peer.

Counted are those that clients send, of ours all (client, worker, connections being set up), seen by MONITOR, which
marks what a script does as `lua`: INFO's totals can't tell the two apart on every version.
"""

import contextlib
import threading
import time
from typing import Any

import redis

from benchmarks._measure import noop, warm_executor
from flyexecutor import FlyMachineExecutor, LocalFly
from flyexecutor.fleet.api import MachinesClient

CALLS = 5_000
LONE = 50
ROUNDS = 3
IDLE_SECONDS = 5.0


class Counter:
    """Counts the commands that clients send. A thread reads MONITOR until the server ends."""

    def __init__(self, url: str) -> None:
        self._connection: Any = redis.Redis.from_url(url, socket_timeout=None)  # redis-py does not type its monitor
        self._marks = 0
        self.commands = 0
        self._marked = threading.Condition()
        ready = threading.Event()
        threading.Thread(target=self._read, args=(ready,), daemon=True).start()
        ready.wait()
        self.read()  # its own connection is set up from now on

    def _read(self, ready: threading.Event) -> None:
        with self._connection.monitor() as monitor, contextlib.suppress(redis.ConnectionError):  # the server's end
            ready.set()
            for seen in monitor.listen():
                with self._marked:
                    if seen["command"].startswith("ECHO"):
                        self._marks += 1
                        self._marked.notify_all()
                    elif seen["client_type"] != "lua":
                        self.commands += 1

    def read(self) -> int:
        """Commands so far; all that were sent before this call are counted."""
        with self._marked:
            target = self._marks + 1
            self._connection.echo("mark")
            if not self._marked.wait_for(lambda: self._marks >= target, 30.0):
                raise TimeoutError("MONITOR tells nothing any more: see above")
            return self.commands


def fan_out(executor: FlyMachineExecutor, counter: Counter) -> float:
    """Commands per call, all submitted at once."""
    before = counter.read()
    for future in [executor.submit(noop) for _ in range(CALLS)]:
        future.result()
    return (counter.read() - before) / CALLS


def lone(executor: FlyMachineExecutor, counter: Counter) -> float:
    """Commands per call, one after the other."""
    before = counter.read()
    for _ in range(LONE):
        executor.submit(noop).result()
    return (counter.read() - before) / LONE


def idle(local: LocalFly, counter: Counter) -> int:
    """Commands of a client that has no future pending, whose machines have stopped."""
    with FlyMachineExecutor(local=local, max_workers=1, idle_timeout=0.1) as executor:
        future = executor.submit(noop)
        future.result()
        machines = MachinesClient(local.api_url, local.app, local.token)
        machine = machines.get(future.machine_id or "")
        assert machine
        machines.wait(machine, "suspended", 10.0)
        machines.close()
        before = counter.read()
        time.sleep(IDLE_SECONDS)
        return counter.read() - before


def main() -> None:
    """Measure and print."""
    with LocalFly(rate_limits=False) as local:
        counter = Counter(local.redis_url)
        with warm_executor(local, 2) as executor:
            fan_outs = sorted(fan_out(executor, counter) for _ in range(ROUNDS))
            lones = sorted(lone(executor, counter) for _ in range(ROUNDS))
        idles = idle(local, counter)
    print("\nRedis commands that clients send\n  goal: <= 1 per call in a fan-out, <= 6 for a lone call, 0 while idle")
    print(f"  {f'fan-out of {CALLS:,} calls, 2 workers':<44}{fan_outs[ROUNDS // 2]:>12.2f} per call")
    print(f"  {'lone call':<44}{lones[ROUNDS // 2]:>12.2f} per call")
    print(f"  {f'idle for {IDLE_SECONDS:.0f} s, workers gone':<44}{idles:>12}", flush=True)


if __name__ == "__main__":
    main()
