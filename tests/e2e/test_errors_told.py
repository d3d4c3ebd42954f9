"""Wrong settings and servers that are away: one clear sentence each, with the value and the remedy; never a hang."""

import os
import socket
import subprocess
import sys

import pytest

from flyexecutor import FlyMachineExecutor, MachineStartError, RedisUnavailableError, SettingsError
from tests import tasks

WAIT = 30.0


@pytest.fixture
def closed_port():
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def failure_of(executor, secrets=()):
    """What the future of a call fails with: a sentence, without any of the secrets."""
    future = executor.submit(tasks.increment, 1)
    error = future.exception(WAIT)
    text = str(error)
    assert "\n" not in text
    for secret in secrets:
        assert secret not in text + repr(error) + repr(executor)
    return error, text


def test_a_wrong_token_is_told(make_executor):
    error, text = failure_of(make_executor(token="wrong-token-x"), ["wrong-token-x"])
    assert isinstance(error, MachineStartError)
    assert "401" in text
    assert "check FLY_API_TOKEN" in text


def test_an_unknown_app_is_told(make_executor):
    error, text = failure_of(make_executor(app="no-such-app"))
    assert isinstance(error, MachineStartError)
    assert "'no-such-app'" in text
    assert "FLY_TASKS_APP" in text


def test_an_unknown_image_is_told(make_executor, local_fly):
    error, text = failure_of(make_executor(image="registry.fly.io/no-such:image"), [local_fly.token])
    assert isinstance(error, MachineStartError)
    assert "registry.fly.io/no-such:image" in text
    assert "WORKER_IMAGE" in text


def test_an_unreachable_redis_is_told_by_the_future_and_by_flush(make_executor, closed_port):
    executor = make_executor(redis_url=f"redis://:geheim@127.0.0.1:{closed_port}/0")
    future = executor.submit(tasks.increment, 1)
    with pytest.raises(RedisUnavailableError, match=rf"127.0.0.1:{closed_port}.*REDIS_URL") as told:
        executor.flush(0.5)
    assert "geheim" not in str(told.value)
    assert isinstance(future.exception(WAIT), RedisUnavailableError)


def test_a_wrong_redis_password_is_told(make_executor, local_fly):
    url = local_fly.redis_url
    executor = make_executor(redis_url=url.replace(url.split(":")[2].split("@")[0], "geheim"))
    error, text = failure_of(executor, ["geheim"])
    assert isinstance(error, RedisUnavailableError)
    assert "REDIS_URL" in text


def test_an_unreachable_api_is_told(make_executor, closed_port):
    error, text = failure_of(make_executor(api_url=f"http://127.0.0.1:{closed_port}"))
    assert isinstance(error, MachineStartError)
    assert f"127.0.0.1:{closed_port}" in text
    assert "FLY_API_HOSTNAME" in text


def test_an_image_whose_program_ends_before_it_joins_is_told(local_fly, make_executor):
    error, text = failure_of(make_executor(env={"PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere"}))
    assert isinstance(error, MachineStartError)
    assert "ended before its worker joined: exit code 1" in text


def test_missing_settings_are_named_all_at_once_and_the_remedy(monkeypatch):
    for name in ("FLY_API_TOKEN", "FLY_TASKS_APP", "REDIS_URL", "WORKER_IMAGE", "FLY_IMAGE_REF"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError) as told:
        FlyMachineExecutor()
    for name in ("FLY_API_TOKEN", "FLY_TASKS_APP", "REDIS_URL", "WORKER_IMAGE", "local=True"):
        assert name in str(told.value)


def test_a_computer_that_can_not_run_the_local_api_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=r"local=True is not possible here.*pip install 'flyexecutor\[local\]'"):
        FlyMachineExecutor(local=True)


@pytest.mark.parametrize(
    ("option", "value"), [("max_workers", 0), ("concurrency", "2"), ("retries", -1), ("idle_timeout", None)]
)
def test_an_option_that_makes_no_sense_is_named_with_its_value(make_executor, option, value):
    with pytest.raises(SettingsError, match=f"{option} is {value!r}"):
        make_executor(**{option: value})


def test_the_worker_says_what_it_misses_when_a_person_starts_it():
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()}
    ran = subprocess.run(
        [sys.executable, "-m", "flyexecutor.worker"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("flyexecutor worker: FLY_APP_NAME, FLY_MACHINE_ID, REDIS_URL")
    assert "Traceback" not in ran.stderr


def test_the_command_local_says_that_a_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "flyexecutor.cli", "local", "--port", str(port)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 1
    assert f"port {port} of 127.0.0.1 is taken" in ran.stderr
    assert "Traceback" not in ran.stderr
