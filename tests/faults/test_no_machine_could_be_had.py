"""No machine could be had: MachineStartError with the status and the remedy, and never a hang."""

import pytest

from flyexecutor import MachineStartError

pytestmark = pytest.mark.usefixtures("quick_fleet")


def test_a_wrong_token_is_told(make_executor, failure_of):
    error, text = failure_of(make_executor(token="wrong-token-x"), ["wrong-token-x"])
    assert isinstance(error, MachineStartError)
    assert "401" in text
    assert "check FLY_API_TOKEN" in text


def test_an_unknown_app_is_told(make_executor, failure_of):
    error, text = failure_of(make_executor(app="no-such-app"))
    assert isinstance(error, MachineStartError)
    assert "'no-such-app'" in text
    assert "FLY_TASKS_APP" in text


def test_an_unknown_image_is_told(make_executor, local_fly, failure_of):
    error, text = failure_of(make_executor(image="registry.fly.io/no-such:image"), [local_fly.token])
    assert isinstance(error, MachineStartError)
    assert "registry.fly.io/no-such:image" in text
    assert "WORKER_IMAGE" in text


def test_an_unreachable_api_is_told(make_executor, closed_port, failure_of, monkeypatch):
    monkeypatch.setattr("flyexecutor.fleet.FIRST_CONTACT", 0.5)
    error, text = failure_of(make_executor(api_url=f"http://127.0.0.1:{closed_port}"))
    assert isinstance(error, MachineStartError)
    assert f"127.0.0.1:{closed_port}" in text
    assert "FLY_API_HOSTNAME" in text


def test_an_image_whose_program_ends_before_it_joins_is_told(make_executor, failure_of):
    error, text = failure_of(make_executor(env={"PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere"}))
    assert isinstance(error, MachineStartError)
    assert "ended before its worker joined: exit code 1" in text
    assert error.phase == "boot"
