"""No machine could be had: MachineStartError with the status and the remedy, and never a hang."""

import pytest

from flyexecutor import FlyMachineExecutor, LocalFly, MachineStartError

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


def test_a_machine_whose_program_can_not_begin_is_told(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with LocalFly(rate_limits=False, image=0.1) as fly:
        monkeypatch.chdir(tmp_path)
        folder.rmdir()  # where its machines run
        with FlyMachineExecutor(local=fly, max_workers=2) as executor:
            error = executor.submit(abs, -1).exception(60.0)
            assert isinstance(error, MachineStartError)
            assert "did not begin (failed)" in str(error)
            assert list(fly.states().values()) == ["failed"]  # not tried again and again


def test_an_unknown_image_is_told(make_executor, local_fly, failure_of):
    error, text = failure_of(make_executor(image="registry.fly.io/no-such:image"), [local_fly.token])
    assert isinstance(error, MachineStartError)
    assert "registry.fly.io/no-such:image" in text
    assert "WORKER_IMAGE" in text


def test_an_unreachable_api_is_told(make_executor, closed_port, failure_of, monkeypatch):
    monkeypatch.setattr("flyexecutor.fleet.turns.FIRST_CONTACT", 0.5)
    error, text = failure_of(make_executor(api_url=f"http://127.0.0.1:{closed_port}"))
    assert isinstance(error, MachineStartError)
    assert f"127.0.0.1:{closed_port}" in text
    assert "FLY_API_HOSTNAME" in text


def test_an_image_whose_program_ends_before_it_joins_is_told(make_executor, failure_of):
    error, text = failure_of(make_executor(env={"PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere"}))
    assert isinstance(error, MachineStartError)
    assert "ended before its worker joined: exit code 1" in text
    assert error.phase == "boot"
