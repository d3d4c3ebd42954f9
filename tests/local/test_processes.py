"""Groups of processes, also as a Mac has them: without waitid before Python 3.13, and with refusals of its own."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from flyexecutor.local import processes


@pytest.fixture(params=["waitid", "no waitid"])
def kind_of_unix(request, monkeypatch):
    if request.param == "no waitid":
        monkeypatch.delattr(os, "waitid", raising=False)


@pytest.fixture
def leader(tmp_path):
    """A process that leads a group and has a child."""
    script = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script]
    readable, writable = os.pipe()
    process = processes.start(
        tmp_path, command, env=os.environ, cwd=str(tmp_path), stdin=subprocess.PIPE, output=writable
    )
    os.close(writable)
    with open(readable) as told:
        process.child = psutil.Process(int(told.readline()))
        yield process
    processes.end_group(tmp_path, process.pid)
    process.stdin.close()
    process.wait()


@pytest.mark.usefixtures("kind_of_unix")
def test_a_group_that_is_paused_has_stopped_when_pause_returns_and_goes_on(leader):
    for _ in range(10):
        assert processes.pause_group(leader.pid)
        assert psutil.Process(leader.pid).status() == psutil.STATUS_STOPPED
        processes.resume_group(leader.pid)
    leader.stdin.close()
    assert leader.wait(20) == 0


@pytest.mark.usefixtures("kind_of_unix")
def test_a_group_whose_leader_has_ended_is_not_paused_and_its_end_is_left_to_its_parent(leader):
    leader.send_signal(signal.SIGKILL)
    while psutil.Process(leader.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert not processes.pause_group(leader.pid)
    assert leader.wait(20) == -signal.SIGKILL


def test_a_group_of_which_only_zombies_are_left_is_neither_paused_nor_a_fault(tmp_path, monkeypatch):
    def as_macos_does(_group, _number):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", as_macos_does)
    assert not processes.pause_group(1)
    processes.resume_group(1)
    (tmp_path / "1.group").touch()
    processes.end_group(tmp_path, 1)
    assert not (tmp_path / "1.group").exists()


def test_nothing_is_started_in_a_run_folder_that_is_cleaned_up(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    # As when somebody writes a file there at the same moment: the folder stays.
    monkeypatch.setattr(processes.shutil, "rmtree", lambda *_, **__: None)
    processes.clean_up(run)
    before = psutil.Process().children()
    with pytest.raises(OSError, match="ends"):
        processes.start(run, ["sleep", "600"], env=os.environ, cwd=str(tmp_path))
    assert psutil.Process().children() == before


def test_what_could_not_be_found_again_does_not_stay(tmp_path):
    before = psutil.Process().children()
    with pytest.raises(FileNotFoundError):
        processes.start(tmp_path / "gone", ["sleep", "600"], env=os.environ, cwd=str(tmp_path))
    assert psutil.Process().children() == before


def test_a_clean_up_stops_all_groups_before_it_ends_the_first(tmp_path, monkeypatch):
    """Else machines are there for a moment without their Redis, and print that it can't be reached."""
    sent = []
    monkeypatch.setattr(os, "killpg", lambda group, number: sent.append((number, group)))
    for group in (11, 12):
        (tmp_path / f"{group}.group").touch()
    processes.clean_up(tmp_path)
    assert [number for number, _ in sent] == [signal.SIGSTOP] * 2 + [signal.SIGKILL] * 2
    assert {group for number, group in sent if number == signal.SIGKILL} == {11, 12}
