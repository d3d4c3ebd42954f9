"""Redis commands as a provider bills them, in a fan-out, for a lone call and while idle; there is no peer.

Counted are those that clients send, of ours all (client, worker, connections being set up), and those inside scripts,
seen by MONITOR, which marks what a script does as `lua`: INFO's totals can't tell the two apart on every version.
"""

import contextlib
import threading
import time
from typing import Any, NamedTuple

import redis

from benchmarks._measure import noop, warm_executor
from flyexecutor import FlyMachineExecutor, LocalFly
from flyexecutor.fleet.api import MachinesClient

CALLS = 5_000
LONE = 50
ROUNDS = 3
IDLE_SECONDS = 5.0


class Commands(NamedTuple):
    """How many commands there were."""

    sent: float  # by clients
    inside: float  # scripts

    def since(self, before: "Commands", calls: int) -> "Commands":
        """For each of so many calls."""
        return Commands((self.sent - before.sent) / calls, (self.inside - before.inside) / calls)


class Counter:
    """Counts the commands that clients send, and those inside scripts. A thread reads MONITOR until the server ends."""

    def __init__(self, url: str) -> None:
        self._connection: Any = redis.Redis.from_url(url, socket_timeout=None)  # redis-py does not type its monitor
        self._marks = 0
        self.sent = self.inside = 0
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
                    elif seen["client_type"] == "lua":
                        self.inside += 1
                    else:
                        self.sent += 1

    def read(self) -> Commands:
        """Commands so far; all that were sent before this call are counted."""
        with self._marked:
            target = self._marks + 1
            self._connection.echo("mark")
            if not self._marked.wait_for(lambda: self._marks >= target, 30.0):
                raise TimeoutError("MONITOR tells nothing any more: see above")
            return Commands(self.sent, self.inside)


def fan_out(executor: FlyMachineExecutor, counter: Counter) -> Commands:
    """Commands per call, all submitted at once."""
    before = counter.read()
    for future in [executor.submit(noop) for _ in range(CALLS)]:
        future.result()
    return counter.read().since(before, CALLS)


def lone(executor: FlyMachineExecutor, counter: Counter) -> Commands:
    """Commands per call, one after the other."""
    before = counter.read()
    for _ in range(LONE):
        executor.submit(noop).result()
    return counter.read().since(before, LONE)


def idle(local: LocalFly, counter: Counter) -> float:
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
        return counter.read().since(before, 1).sent


def main() -> None:
    """Measure and print."""
    with LocalFly(rate_limits=False) as local:
        counter = Counter(local.redis_url)
        with warm_executor(local, 2) as executor:
            fan_outs = sorted(fan_out(executor, counter) for _ in range(ROUNDS))
            lones = sorted(lone(executor, counter) for _ in range(ROUNDS))
        idles = idle(local, counter)
    print("\nRedis commands: those that clients send, and those inside scripts")
    print("  goal: <= 1 and 8 per call in a fan-out, <= 4 and 25 for a lone call, 0 while idle")
    for what, found in ((f"fan-out of {CALLS:,} calls, 2 workers", fan_outs), ("lone call", lones)):
        sent, inside = found[ROUNDS // 2]
        print(f"  {what:<44}{sent:>8.2f} and {inside:.2f} per call")
    print(f"  {f'idle for {IDLE_SECONDS:.0f} s, workers gone':<44}{idles:>8.0f}", flush=True)


if __name__ == "__main__":
    main()
