"""What tests stand on: a real Redis, and executors whose machines are real processes.

`local_fly` (one Machines API and one Redis for the session, no rate limits) is the package's own fixture, from
`flyexecutor.contrib.pytest`.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import redis
import requests
from hypothesis import HealthCheck, settings

from flyexecutor import FlyMachineExecutor, LocalFly
from flyexecutor.store.calls import Store
from tests import tasks

APP = "tested"
WAIT = 60.0
# No deadlines: a busy computer is no fault. FUZZ_EXAMPLES: how many of each are tried (`make fuzz`: 10,000).
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
settings.register_profile("suite", deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, each in a process of its own: pytest-xdist gives each one part of the list."""
    long = [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if item not in long]
    share = (len(items) + len(long)) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    for n, item in enumerate(long):
        items.insert(n * share, item)


@pytest.fixture
def redis_url(local_fly: LocalFly) -> str:
    """The address of a real, empty Redis."""
    with redis.Redis.from_url(local_fly.redis_url) as client:
        client.flushall()
    return local_fly.redis_url


@pytest.fixture
def raw_redis(redis_url: str) -> "Iterator[redis.Redis]":
    """A client of that Redis, to look at what is in it."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = Store(redis_url, APP)
    yield store
    store.close()


@pytest.fixture
def make_executor(local_fly: LocalFly, request: pytest.FixtureRequest) -> Iterator[Callable[..., FlyMachineExecutor]]:
    """Makes executors with options; they are shut down at the end of the test.

    Their machines are the test's own: with its name in the environment they are a lane apart.
    """
    made: list[FlyMachineExecutor] = []

    def make(*, env: Mapping[str, str] | None = None, **options: Any) -> FlyMachineExecutor:
        env = {"TEST": request.node.nodeid, **(env or {})}
        made.append(FlyMachineExecutor(local=local_fly, env=env, **{"max_workers": 2, "idle_timeout": 1.0, **options}))
        return made[-1]

    yield make
    for executor in made:
        executor.shutdown(wait=False, cancel_futures=True)  # a test that failed may have left a call at its gate
    if made:
        _destroy_machines(local_fly, request.node.nodeid)


def _destroy_machines(local_fly: LocalFly, test: str) -> None:
    """No other test starts them again: hundreds of processes that rest would take memory, and time of the kernel."""
    url = f"{local_fly.api_url}/v1/apps/{local_fly.app}/machines"
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {local_fly.token}"
        for machine in session.get(url, timeout=10).json():
            if (machine.get("config") or {}).get("env", {}).get("TEST") == test:
                session.delete(f"{url}/{machine['id']}?force=true", timeout=10)


@pytest.fixture
def executor(local_fly: LocalFly) -> Iterator[FlyMachineExecutor]:
    """An executor whose machines are those of all tests that use it."""
    executor = FlyMachineExecutor(local=local_fly, max_workers=2, idle_timeout=1.0)
    yield executor
    executor.shutdown(wait=False, cancel_futures=True)


@pytest.fixture(autouse=True)
def unpaced_creates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fly creates one machine a second, lists them as often, and `local_fly` does both any number of times."""
    monkeypatch.setattr("flyexecutor.fleet.launch.CREATE_EVERY", 0.0)
    monkeypatch.setattr("flyexecutor.fleet.lists.LIST_EVERY", 0.0)


@pytest.fixture
def until() -> Callable[..., Any]:
    """Ask again until something is true: what machines do by themselves has no event that a test could wait for."""

    def ask(true: Callable[[], Any], timeout: float = 30.0) -> Any:
        deadline = time.monotonic() + timeout
        while not (told := true()):
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.01)
        return told

    return ask


class MachineOutput:
    """What machines print, as it comes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.text = ""

    def add(self, line: str) -> None:
        """Heard by whoever waits."""
        with self._changed:
            self.text += line
            self._changed.notify_all()

    def wait_for(self, words: str) -> None:
        """Until they were printed."""
        with self._changed:
            assert self._changed.wait_for(lambda: words in self.text, WAIT), f"no {words!r} in {self.text!r}"


@pytest.fixture
def machine_output(monkeypatch: pytest.MonkeyPatch) -> MachineOutput:
    """What would come to standard error. Who asks `capfd` for that again and again loses what comes as it truncates."""
    output = MachineOutput()
    monkeypatch.setattr("flyexecutor.local.connection.write_line", output.add)
    return output


@pytest.fixture
def quick_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet that looks often and asks again soon: tests of what only the next look finds wait for nothing else."""
    monkeypatch.setattr("flyexecutor.fleet.turns.LOOK_EVERY", 0.5)
    monkeypatch.setattr("flyexecutor.fleet.api.FIRST_PAUSE", 0.05)


@pytest.fixture
def machine_api(local_fly: LocalFly) -> Callable[..., None]:
    """Does to a machine what a person does with fly machine ... ."""

    def ask(machine_id: str, action: str, **body: Any) -> None:
        url = f"{local_fly.api_url}/v1/apps/{local_fly.app}/machines/{machine_id}"
        headers = {"Authorization": f"Bearer {local_fly.token}"}
        if action == "destroy":
            requests.delete(f"{url}?force=true", headers=headers, timeout=10).raise_for_status()
        else:
            requests.post(f"{url}/{action}", json=body, headers=headers, timeout=10).raise_for_status()

    return ask


@pytest.fixture
def local_redis(local_fly: LocalFly) -> "Iterator[redis.Redis]":
    """A client of the executors' Redis, to look at what is in it; unlike `raw_redis` it empties nothing."""
    with redis.Redis.from_url(local_fly.redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def failure_of() -> Callable[..., tuple[BaseException, str]]:
    """What the future of a call fails with: a sentence, without any of the secrets."""

    def ask(executor: FlyMachineExecutor, secrets: Sequence[str] = ()) -> tuple[BaseException, str]:
        error = executor.submit(tasks.increment, 1).exception(30.0)
        assert error
        text = str(error)
        assert "\n" not in text
        for secret in secrets:
            assert secret not in text + repr(error) + repr(executor)
        return error, text

    return ask
