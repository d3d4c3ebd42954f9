"""Wrong settings and servers that are away: one clear sentence each, with the value and the remedy; never a hang."""

import os
import socket
import subprocess
import sys

import pytest

from flyexecutor import FlyMachineExecutor, SettingsError

WAIT = 30.0


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
    ("option", "value"), [("max_workers", 0), ("concurrency", "2"), ("retries", -1), ("idle_timeout", "soon")]
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
    assert ran.stderr.startswith("flyexecutor worker: FLY_APP_NAME, FLY_MACHINE_ID, FLYEXECUTOR_REDIS_URL")
    assert "Traceback" not in ran.stderr


def test_the_command_local_says_that_a_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "flyexecutor.cli", "local", "--port", str(port)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 1
    assert f"port {port} of 127.0.0.1 is taken" in ran.stderr
    assert "Traceback" not in ran.stderr
