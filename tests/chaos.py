"""Everything goes wrong at random: workers are killed, machines stopped, suspended and destroyed, the API answers 429,
5xx or nothing, and two clients share a lane. `python -m tests.chaos [--calls 1000] [--seed N]`, or `make chaos`.

What must be true all the same: every future resolves, none twice, and afterwards no machine runs and none is forgotten.
"""

import argparse
import random
import secrets
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import requests

from flyexecutor import FlyMachineExecutor, LocalFly, Retry
from tests import tasks

EVERY = 0.15  # seconds between two misfortunes, on average,
IN_VAIN = 10  # and more after so many since a call has ended: what is killed faster than it boots can do nothing
FAULTS = {"too_many": 0.1, "broken": 0.08, "lost_answers": 0.04, "no_answer": 0.04, "latency": (0.0, 0.05)}
DEEDS = ("kill", "kill", "kill", "stop", "suspend", "destroy")
WAIT = 240.0


@dataclass
class Report:
    """What happened."""

    seed: int
    deeds: Counter = field(default_factory=Counter)
    attempts: int = 0
    seconds: float = 0.0
    machines: Counter = field(default_factory=Counter)  # by their last state

    def __str__(self):
        deeds = ", ".join(f"{number} x {deed}" for deed, number in sorted(self.deeds.items()))
        return f"seed {self.seed}: {self.attempts} attempts in {self.seconds:.0f} s; {deeds}; machines: {self.machines}"


class Misfortune(threading.Thread):
    """Does something to a machine, again and again, until `end`."""

    def __init__(
        self, fly: LocalFly, rng: random.Random, deeds: Counter, ended: Counter | None = None, every: float = EVERY
    ) -> None:
        super().__init__(daemon=True)
        self._fly = fly
        self._rng = rng
        self._deeds = deeds
        self._ended = ended  # the calls that have; None: it is no matter
        self._every = every
        self._over = threading.Event()
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {fly.token}"

    def run(self) -> None:
        done, in_vain = 0, 0
        while not self._over.wait(self._rng.expovariate(1 / self._every) * 1.5 ** (in_vain // IN_VAIN)):
            if self._ended is not None:
                done, in_vain = len(self._ended), in_vain + 1 if len(self._ended) == done else 0
            alive = sorted(m for m, state in self._fly.states().items() if state == "started")
            if alive:
                deed = self._rng.choice(DEEDS)
                if self._do(deed, self._rng.choice(alive)):
                    self._deeds[deed] += 1

    def end(self) -> None:
        self._over.set()
        self.join()
        self._session.close()

    def _do(self, deed: str, machine: str) -> bool:
        url = f"{self._fly.api_url}/v1/apps/{self._fly.app}/machines/{machine}"
        try:
            if deed == "destroy":
                answer = self._session.delete(f"{url}?force=true", timeout=10)
            elif deed == "kill":
                answer = self._session.post(f"{url}/signal", json={"signal": "SIGKILL"}, timeout=10)
            else:
                answer = self._session.post(f"{url}/{deed}", json={}, timeout=10)
        except requests.RequestException:
            return False  # the API is not kind to us, either
        return answer.ok


def run(calls: int, seed: int, workers: int = 4) -> Report:
    """Do it; raises AssertionError if something is not as it must be."""
    report, rng = Report(seed), random.Random(seed)
    began = time.monotonic()
    with LocalFly(rate_limits=False, show_output=False) as fly:
        options = {"max_workers": workers, "idle_timeout": 0.5, "boot_timeout": 120.0, "warm": 2}
        options["retries"] = Retry(lost=1000)
        clients = [FlyMachineExecutor(local=fly, **options) for _ in range(2)]
        fly.inject(seed=seed, **FAULTS)
        ended: Counter = Counter()
        misfortune = Misfortune(fly, rng, report.deeds, ended)
        misfortune.start()
        futures = []
        for n in range(calls):
            future = clients[n % 2].submit(tasks.rest_and_return, rng.uniform(0.0, 0.04), n)
            future.add_done_callback(lambda one: ended.update([one.id]))
            futures.append(future)
        results = [future.result(WAIT) for future in futures]
        report.attempts = sum(future.attempt for future in futures)
        misfortune.end()
        fly.inject()
        assert results == list(range(calls))
        assert ended == Counter(future.id for future in futures), "a future was resolved twice"
        wait_for_rest(fly)
        known = {machine.id for machine in clients[0].machines()}
        left = {machine for machine, state in fly.states().items() if state != "destroyed"}
        assert known == left, "a machine is forgotten"
        stats = clients[0].stats()
        assert (stats.queued, stats.running) == (0, 0), stats
        # A worker whose machine was stopped after the last call is still noted: that must hold up nobody.
        assert clients[0].submit(tasks.increment, 1).result(WAIT) == 2
        wait_for_rest(fly)
        for client in clients:
            client.shutdown()
        report.machines = Counter(fly.states().values())
    report.seconds = time.monotonic() - began
    return report


def wait_for_rest(fly: LocalFly, patience: float = 30.0) -> None:
    """Until no machine runs: `idle_timeout`, and the time in which one that was just started joins."""
    deadline = time.monotonic() + patience
    while not {*fly.states().values()} <= {"suspended", "stopped", "destroyed", "created", "failed"}:
        assert time.monotonic() < deadline, f"a machine runs on: {fly.states()}"
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    told = parser.parse_args()
    print(f"chaos: {told.calls} calls, seed {told.seed}", file=sys.stderr, flush=True)
    print(run(told.calls, told.seed))


if __name__ == "__main__":
    main()
