"""Redis commands as a provider bills them: those that clients send, seen by MONITOR (scripts' own are marked `lua`)."""

import contextlib
import threading
from typing import Any

import redis

from benchmarks._measure import noop, warm_executor
from flyexecutor import LocalFly

CALLS = 1_000
LONE = 50


class Counter:
    """Counts the commands that clients send. A thread reads MONITOR until a marker comes by."""

    def __init__(self, url: str) -> None:
        self._connection: Any = redis.Redis.from_url(url)  # redis-py does not type its monitor
        self._marks = 0
        self.commands = 0
        self._marked = threading.Condition()
        ready = threading.Event()
        threading.Thread(target=self._read, args=(ready,), daemon=True).start()
        ready.wait()

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
            self._marked.wait_for(lambda: self._marks >= target)
            return self.commands


def main() -> None:
    """Measure and print."""
    with LocalFly(rate_limits=False) as local, warm_executor(local, 2) as executor:
        counter = Counter(local.redis_url)
        before = counter.read()
        for future in [executor.submit(noop) for _ in range(CALLS)]:
            future.result()
        fan_out = counter.read() - before
        before = counter.read()
        for _ in range(LONE):
            executor.submit(noop).result()
        lone = counter.read() - before
    print("\nRedis commands\n  goal: <= 1 per call in a fan-out, <= 6 for a lone call")
    print(f"  fan-out of {CALLS}: {fan_out / CALLS:.2f} per call\n  lone call: {lone / LONE:.2f}")


if __name__ == "__main__":
    main()
