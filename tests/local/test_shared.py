"""A local Fly with a name: one for all processes that say it, from the first to the last, whichever way they end."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from unittest import mock

import psutil
import pytest

from flyexecutor import FlyMachineExecutor, SettingsError, UnknownCallError
from flyexecutor.local import LocalError, LocalFly, connection
from flyexecutor.local.guard import Guard
from tests.e2e.test_lifecycle import family, wait_for_end

WAIT = 60.0
FOLDER = Path(f"/tmp/flyexecutor-{os.getuid()}")
ADDRESS = ("FLY_API_HOSTNAME", "FLY_API_TOKEN", "REDIS_URL")
USER = """
import sys
from flyexecutor import FlyMachineExecutor
from flyexecutor.local import LocalFly, connection
from tests import tasks
import json, os

connection.GRACE = {grace}
fly = LocalFly(name={name!r}, keep={keep!r})
print(json.dumps({{"guard": fly.pid, "server": fly.server_pid, "image": fly.image, **fly.environ()}}), flush=True)
for line in sys.stdin:
    exec(json.loads(line))
"""


@pytest.fixture
def name(monkeypatch):
    """A name that nobody else says, and no grace for it."""
    monkeypatch.setattr(connection, "GRACE", 0.0)
    return uuid.uuid4().hex


class User:
    """A process that uses the local Fly of a name, and does what it is told."""

    def __init__(self, name, grace, keep, **options):
        command = [sys.executable, "-c", USER.format(name=name, grace=grace, keep=keep)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )

    def told(self):
        return json.loads(self.process.stdout.readline())

    def do(self, statement):
        """The answer to a statement that prints one line of JSON."""
        self.process.stdin.write(json.dumps(statement) + "\n")
        self.process.stdin.flush()
        return self.told()

    def end(self):
        _, errors = self.process.communicate(timeout=WAIT)
        assert self.process.returncode == 0, errors
        return errors


@pytest.fixture
def start(name):
    users = []

    def start(grace=0.0, keep=None, **options):
        users.append(User(name, grace, keep, **options))
        return users[-1]

    yield start
    for user in users:
        user.process.kill()
        user.process.communicate()


def left_of(name):
    return list(FOLDER.glob(f"{name}.*"))


def test_two_that_come_first_at_once_share_one_and_it_ends_after_the_last(name, start):
    users = [start() for _ in range(3)]
    told = [user.told() for user in users]
    assert told[0] == told[1] == told[2]
    processes = family(told[0]["guard"])
    for user in users[:-1]:
        user.end()
    answer = users[-1].do("print(json.dumps(fly.states()))")
    assert answer == {}
    users[-1].end()
    for process in processes:
        wait_for_end(process)
    assert left_of(name) == []


def test_a_call_that_one_process_makes_another_knows_by_its_id(name, start):
    first, second = start(), start()
    assert first.told() == second.told()
    call_id = first.do(
        f"ex = FlyMachineExecutor(local={name!r}, max_workers=1); f = ex.submit(pow, 2, 5); f.result(); "
        "print(json.dumps(f.id))"
    )
    first.process.kill()
    got = second.do(
        f"ex = FlyMachineExecutor(local={name!r}, max_workers=1); print(json.dumps(ex.future({call_id!r}).result(30)))"
    )
    assert got == 32


def test_it_outlives_its_last_user_by_the_grace_so_that_a_reloader_finds_it_again(name, start):
    first = start(grace=WAIT)
    told = first.told()
    first.end()
    second = start(grace=WAIT)
    assert second.told() == told
    os.kill(told["guard"], signal.SIGTERM)


def test_a_forked_child_goes_on_using_it_after_its_parent(name, start):
    parent = start()
    told = parent.told()
    child = parent.do("pid = os.fork(); pid and print(json.dumps(pid), flush=True); pid and os._exit(0)")
    parent.process.wait(WAIT)
    assert psutil.pid_exists(child)
    with LocalFly(name=name) as fly:
        assert fly.pid == told["guard"]
    processes = family(told["guard"])
    os.kill(child, signal.SIGKILL)
    for process in processes:
        wait_for_end(process)


@pytest.mark.parametrize("killed", ["guard", "server"])
def test_whichever_process_is_killed_nothing_stays_behind_users_are_told_and_the_next_starts_anew(name, start, killed):
    user = start()
    told = user.told()
    user.do(f"ex = FlyMachineExecutor(local={name!r}, max_workers=1); print(json.dumps(ex.submit(pow, 2, 5).result()))")
    processes = family(told["guard"])
    assert len(processes) >= 5  # guard, server, Redis, worker, runner
    os.kill(told[killed], signal.SIGKILL)
    with LocalFly(name=name) as another:  # comes while the other is about to end
        assert another.pid != told["guard"]
        for process in processes:
            wait_for_end(process)
        assert len(left_of(name)) == 1
    assert "the local Fly has ended" in user.end()


def test_a_guard_that_does_not_answer_is_told(name, start, monkeypatch):
    guard = psutil.Process(start().told()["guard"])
    guard.suspend()
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT", 0.2)
    with pytest.raises(SettingsError, match=r"it does not answer for 0\.2 s: is its guard stopped\?"):
        FlyMachineExecutor(local=name)
    guard.kill()
    wait_for_end(guard)


def test_a_user_that_is_killed_is_a_user_less(name, start):
    user = start()
    processes = family(user.told()["guard"])
    user.process.kill()
    for process in processes:
        wait_for_end(process)
    assert left_of(name) == []


def test_files_of_one_whose_processes_were_all_killed_are_removed_by_the_next(name, start):
    user = start()
    told = user.told()
    processes = family(told["guard"])
    os.kill(told["guard"], signal.SIGSTOP)  # else it would clean up
    for process in reversed(processes):
        process.kill()
    for process in processes:
        wait_for_end(process)
    (stale,) = left_of(name)
    with LocalFly(name=name):
        assert stale not in left_of(name)


def test_what_leaves_and_comes_again_all_the_time_finds_one_each_time(name):
    failures = []

    def come_and_go():
        try:
            for _ in range(5):
                with LocalFly(name=name) as fly:
                    fly.states()
        except BaseException as exc:
            failures.append(exc)
            raise

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert failures == []
    assert not any(thread.is_alive() for thread in threads)


def test_options_that_differ_are_named_and_those_left_out_are_not(name):
    with LocalFly(name=name, speed=2.0, app="mine", secrets={"KEY": "s3cret"}) as fly:
        with LocalFly(name=name, show_output=False) as same:
            assert (same.pid, same.app) == (fly.pid, "mine")
        with pytest.raises(LocalError, match=r"already, and its app is 'mine', not 'other'; its speed is 2\.0, not 3"):
            LocalFly(name=name, speed=3, app="other")
        with pytest.raises(LocalError, match="its secrets is another") as told:
            LocalFly(name=name, secrets={"KEY": "t0psecret"}, token="12345678")
        assert "s3cret" not in str(told.value)
        assert "its token is another" in str(told.value)
        assert fly.states() == {}


@pytest.mark.parametrize("bad", ["../x", "", "a/b", "n" * 200, "é", "a b", "a.b"])
def test_a_name_with_odd_characters_is_refused(bad):
    with pytest.raises(SettingsError, match=r"local=.* is not possible here: the name .* 1 to 40 letters, digits"):
        FlyMachineExecutor(local=bad)


def test_what_is_neither_a_name_nor_a_local_fly_is_refused():
    with pytest.raises(SettingsError, match="local is 3: it must be True, a name, or a LocalFly"):
        FlyMachineExecutor(local=3)


def test_a_folder_that_is_full_or_may_only_be_read_is_told(tmp_path, monkeypatch, name):
    def refuse(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(connection, "_folder_of_user", lambda: tmp_path / "fly")
    monkeypatch.setattr(connection.tempfile, "mkdtemp", refuse)
    with pytest.raises(
        SettingsError, match=f"not possible here: {tmp_path}/fly can't be used: No space left on device"
    ):
        FlyMachineExecutor(local=name)


def test_a_folder_that_others_may_enter_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(connection, "_folder_of_user", lambda: tmp_path / "fly")
    (tmp_path / "fly").mkdir(mode=0o755)
    with pytest.raises(LocalError, match=f"{tmp_path}/fly must be a folder of yours that nobody else may enter"):
        LocalFly(name=name)
    (tmp_path / "fly").rmdir()
    (tmp_path / "fly").symlink_to(tmp_path)
    with pytest.raises(LocalError, match="must be a folder of yours"):
        LocalFly(name=name)


def test_each_process_has_machines_of_its_own_folder_and_path(name, start, tmp_path):
    """A script and a notebook: each finds the modules of its folder, though they share Redis and the app."""
    for user in ("script", "notebook"):
        (tmp_path / user).mkdir()
        (tmp_path / user / "which.py").write_text(f"def tell():\n    return {user!r}\n")
    environ = {**os.environ, "PYTHONPATH": os.getcwd()}
    users = [start(cwd=tmp_path / user, env=environ) for user in ("script", "notebook")]
    told = [user.told() for user in users]
    assert told[0]["REDIS_URL"] == told[1]["REDIS_URL"]
    assert told[0]["image"] != told[1]["image"]
    ask = f"import which; ex = FlyMachineExecutor(local={name!r}, max_workers=1); f = ex.submit(which.tell); "
    answers = [user.do(ask + "print(json.dumps([f.result(30), f.id]))") for user in users]
    assert [answer for answer, _ in answers] == ["script", "notebook"]
    assert users[0].do(f"print(json.dumps(ex.future({answers[1][1]!r}).result(30)))") == "notebook"


def test_a_module_that_makes_an_executor_starts_nothing_in_a_machine(name, start, tmp_path):
    (tmp_path / "app.py").write_text(
        "from flyexecutor import FlyMachineExecutor\nfrom flyexecutor.local import LocalFly\n"
        f"ex = FlyMachineExecutor(local={name!r}, max_workers=1)\n"
        f"fly = LocalFly(name={name!r})\n"
        "def twice(x):\n    future = ex.submit(pow, x, 2)\n    ex.flush()\n    return future.id, 2 * x\n"
    )
    user = start(cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.getcwd()})
    guard = user.told()["guard"]
    call_id, got = user.do("import app; print(json.dumps(app.ex.submit(app.twice, 4).result(30)))")
    assert got == 8
    assert user.do(f"print(json.dumps(app.ex.future({call_id!r}).result(30)))") == 16
    processes = family(guard)
    user.end()  # the machine's connection counts for nothing, suspended or not
    for process in processes:
        wait_for_end(process)


def test_what_was_asked_of_one_that_is_kept_is_there_when_it_comes_again(name, start, tmp_path):
    folder = tmp_path / 'the "data"'
    user = start(keep=str(folder))
    told = user.told()
    done, waiting = user.do(
        "ex = FlyMachineExecutor(local=fly, max_workers=1, retries=3); f = ex.submit(pow, 2, 5); f.result()\n"
        "ex.submit(tasks.rest_and_return, 3600, 1); g = ex.submit(pow, 2, 6); ex.flush()\n"
        "print(json.dumps([f.id, g.id]))"
    )
    processes = family(told["guard"])
    user.process.kill()
    for process in processes:
        wait_for_end(process)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "address.json").stat().st_mode & 0o777 == 0o600
    user = start(keep=str(folder))
    again = user.told()
    assert [again[name] for name in ADDRESS] == [told[name] for name in ADDRESS]
    results = user.do(
        "ex = FlyMachineExecutor(local=fly, max_workers=2)\n"
        f"print(json.dumps([ex.future(i).result({WAIT}) for i in {[done, waiting]}]))"
    )
    assert results == [32, 64]
    with pytest.raises(LocalError, match="is in use by another local Fly"):
        LocalFly(keep=folder)


def test_a_folder_that_can_not_keep_data_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LocalError, match=rf"{tmp_path}/file can't be used to keep data: .*File exists"):
        LocalFly(keep=tmp_path / "file")
    (tmp_path / "address.json").write_text("{")
    with pytest.raises(LocalError, match="can't be used to keep data"):
        LocalFly(keep=tmp_path)


def test_an_unknown_id_tells_of_a_name_or_of_what_keeps_calls(name):
    with FlyMachineExecutor(local=True) as private, FlyMachineExecutor(local=name) as shared:
        with pytest.raises(UnknownCallError, match=r'no call has the id .*local="name" is one for all processes'):
            private.future("0" * 48)
        with pytest.raises(UnknownCallError, match=rf"LocalFly\(name='{name}', keep=\"folder\"\)"):
            shared.batch("0" * 48)


def test_the_one_who_started_it_can_be_waited_for_though_others_go_on(name, start):
    """Nothing of a local Fly holds what the first one's standard error is, or is its child."""
    first = start()
    told = first.told()
    second = start()
    assert second.told() == told
    assert psutil.Process(told["guard"]).ppid() != first.process.pid
    first.process.stdin.close()
    first.process.stdin = None
    assert select.select([first.process.stderr], [], [], WAIT)[0]
    assert first.process.stderr.read() == ""
    assert second.do("print(json.dumps(fly.states()))") == {}


def test_what_machines_print_is_shown_once_by_the_oldest_that_shows_it(name, capfd):
    quiet = LocalFly(name=name, show_output=False)
    loud, other = LocalFly(name=name), LocalFly(name=name)
    with FlyMachineExecutor(local=other, max_workers=1) as ex:
        ex.submit(print, "said in a call").result(WAIT)
        for fly in (quiet, loud):
            fly.close()
        ex.submit(print, "said later").result(WAIT)
    other.close()
    shown = capfd.readouterr().err
    assert shown.count("said in a call\n") == shown.count("said later\n") == 1


def test_what_machines_print_is_shown_by_another_when_a_parent_has_left_its_child_alone(name, start, capfd):
    parent = start()
    parent.told()
    child = parent.do("pid = os.fork(); pid and print(json.dumps(pid), flush=True); pid and fly.close()")
    with LocalFly(name=name) as fly, FlyMachineExecutor(local=fly, max_workers=1) as ex:
        ex.submit(print, "said in a call").result(WAIT)
        guard = psutil.Process(fly.pid)
    assert "said in a call\n" in capfd.readouterr().err
    os.kill(child, signal.SIGKILL)
    wait_for_end(guard)


def test_a_user_that_reads_nothing_holds_up_nobody(name, start):
    frozen = start()
    frozen.told()
    with FlyMachineExecutor(local=name, max_workers=1) as ex:
        frozen.process.send_signal(signal.SIGSTOP)
        assert ex.submit(exec, "for _ in range(40_000): print('x' * 100)").exception(WAIT) is None
    frozen.process.kill()


def test_a_server_that_has_just_ended_can_be_told_to_end_as_macos_sees_that(tmp_path, monkeypatch):
    def as_macos_does(_how):
        raise OSError(57, "Socket is not connected")

    ended = Guard(mock.Mock(), tmp_path, shared=False)
    monkeypatch.setattr(ended, "_server", mock.Mock())
    monkeypatch.setattr(ended, "_connection", mock.Mock(shutdown=as_macos_does), raising=False)
    ended._end()
    assert ended._patience() is None  # it waits for the end of the server, and of what was printed
