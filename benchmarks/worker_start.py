"""A worker's start to its first result: against `python -c "import redis, cloudpickle"`.

The worker is `python -m flyexecutor.worker`, started with a call in its queue, and the result is read from Redis: what
of a cold start is ours. Fly's part is not in it. For information: the whole way on the local Machines API, from submit
over the start of a stopped machine to the result.
"""

import os
import secrets
import subprocess
import sys

from benchmarks._measure import medians, show
from flyexecutor import FlyMachineExecutor, LocalFly
from flyexecutor.call import Call
from flyexecutor.environment import MachineEnvironment
from flyexecutor.fleet.api import MachinesClient
from flyexecutor.lane import Lane
from flyexecutor.payload import pickles
from flyexecutor.payload.trust import Trust
from flyexecutor.store.calls import Store
from flyexecutor.terms import new_terms

ROUNDS = 9
WHOLE = "submit, start of a stopped machine, result"
APP = "bench"
LANE = Lane(name="bench", config={}, regions=(), max_workers=0, concurrency=1, boot_timeout=60.0)


class BareWorker:
    """A worker process without a machine."""

    def __init__(self, redis_url: str) -> None:
        key = secrets.token_bytes(32)
        self._trust = Trust(key, APP)
        self._store = Store(redis_url, APP)
        self._outcomes = self._store.outcomes("bench")
        self._process: subprocess.Popen[bytes] | None = None
        environment = MachineEnvironment(
            app=APP,
            machine_id="bench",
            region="",
            image="",
            redis_url=redis_url,
            keys=(key,),
            lane=LANE.name,
            encrypt=False,
            concurrency=1,
            idle_timeout=0.3,
            max_lifetime=60.0,
        )
        self._environ = {
            **os.environ,
            "FLY_APP_NAME": APP,
            "FLY_MACHINE_ID": "bench",
            **environment.to_env(),
        }

    def prepare(self) -> None:
        """Queue a call, once the worker before has ended. The call's function needs no import of its own."""
        self.close()
        call_id = self._trust.new_call_id()
        terms = new_terms((LANE.name,), result_ttl=60.0)
        sealed = self._trust.seal_call(call_id, terms, pickles.dump_call(abs, (1,), {}).body)
        call = Call(call_id, sealed, 0, True)
        self._store.enqueue(LANE, [call], client="bench", result_ttl=60.0, reservation=call_id)

    def start_and_run(self) -> None:
        """From the process's start to the outcome."""
        self._process = subprocess.Popen([sys.executable, "-m", "flyexecutor.worker"], env=self._environ)
        while not list(self._outcomes.read(10.0)):
            pass

    def close(self) -> None:
        """Wait until the worker has left."""
        if self._process:
            self._process.wait()


class StoppedMachine:
    """The same through the Machines API."""

    def __init__(self, local: LocalFly, executor: FlyMachineExecutor) -> None:
        self._executor = executor
        self._machines = MachinesClient(local.api_url, local.app, local.token)
        self._last = executor.submit(abs, 1)
        self._last.result()

    def prepare(self) -> None:
        """Wait until the machine has stopped."""
        machine = self._machines.get(self._last.machine_id or "")
        assert machine
        self._machines.wait(machine, "suspended", 10.0)

    def start_and_run(self) -> None:
        """From submit to result."""
        self._last = self._executor.submit(abs, 1)
        self._last.result()


def main() -> None:
    """Measure and print."""
    with (
        LocalFly(rate_limits=False) as local,
        FlyMachineExecutor(local=local, max_workers=1, idle_timeout=0.0) as executor,
    ):
        bare, machine = BareWorker(local.redis_url), StoppedMachine(local, executor)

        def prepare() -> None:
            bare.prepare()
            machine.prepare()

        taken = medians(
            {
                "python -m flyexecutor.worker": bare.start_and_run,
                "python -c 'import redis, cloudpickle'": lambda: run_python("import redis, cloudpickle"),
                "python -c pass": lambda: run_python("pass"),
                WHOLE: machine.start_and_run,
            },
            ROUNDS,
            before=prepare,
        )
        bare.close()
    for_each = {name: seconds * 1000 for name, seconds in taken.items()}
    whole = {WHOLE: for_each.pop(WHOLE)}
    show("worker start to first result", for_each, "ms", "<= 1.3 of the imports", whole)


def run_python(code: str) -> None:
    """An interpreter that starts, does this and ends."""
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    main()
