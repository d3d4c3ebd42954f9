"""A suspended machine is where it was, and a machine can suspend itself through its own socket."""

import os
import stat
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from flyexecutor.local import LocalFly
from tests.local.conftest import SLEEP, Api

ASK_OWN_SOCKET = """
import http.client, os, socket, sys
called, action, machine = sys.argv[1:]
connection = http.client.HTTPConnection("machine")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(os.environ["FLY_API_SOCKET"])
me = machine or os.environ["FLY_MACHINE_ID"]
method, _, action = action.rpartition(" ")
connection.request(method or "POST", f"/v1/apps/{os.environ['FLY_APP_NAME']}/machines/{me}{action}")
status = connection.getresponse().status
with open(called + ".part", "w") as file:
    file.write(str(status))
os.rename(called + ".part", called)
if status == 200:
    import time
    time.sleep(600)
"""


@pytest.fixture
def started(api):
    """Makes a machine that has started."""

    def make(command=SLEEP, **config):
        machine = api.create(command, **config)
        assert api.wait(machine, "started").ok
        return machine

    return make


@pytest.fixture
def asks_own_socket(tmp_path):
    """The command of a machine that sends one request through its own socket, and where it notes the answer."""
    noted = tmp_path / "answer"
    return lambda action, machine="": [sys.executable, "-c", ASK_OWN_SOCKET, str(noted), action, machine], noted


def test_a_suspended_machine_goes_on_where_it_was(api, tmp_path):
    os.mkfifo(tmp_path / "pid")
    machine = api.create(["sh", "-c", f"sleep 600 & echo $! > {tmp_path}/pid; wait"])
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    parent = child.parent()
    assert api("POST", f"/{machine['id']}/suspend").json() == {"ok": True}
    assert api.wait(machine, "suspended").ok
    assert parent.status() == psutil.STATUS_STOPPED
    while child.status() != psutil.STATUS_STOPPED:  # it has the signal, and will be in a moment
        pass
    assert api("POST", f"/{machine['id']}/start").json()["previous_state"] == "suspended"
    assert api.wait(machine, "started").ok
    while psutil.STATUS_STOPPED in {parent.status(), child.status()}:
        pass
    assert (parent.children(), api.get(machine["id"])["instance_id"]) == ([child], machine["instance_id"])
    events = [(event["type"], event["status"]) for event in reversed(api.get(machine["id"])["events"])]
    assert events[3:] == [
        ("suspend", "suspending"),
        ("suspend", "suspended"),
        ("start", "starting"),
        ("start", "started"),
    ]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"guest": {"cpu_kind": "performance", "memory_mb": 4352}}, "4352 MB"),
        ({"size": "performance-4x"}, "8192 MB"),
        ({"init": {"exec": SLEEP, "swap_size_mb": 512}}, "swap"),
    ],
)
def test_a_machine_that_fly_can_t_suspend_is_refused_with_the_reason(api, started, config, reason):
    machine = started(**config)
    refused = api("POST", f"/{machine['id']}/suspend")
    assert (refused.status_code, reason in refused.json()["error"]) == (412, True)
    assert api.get(machine["id"])["state"] == "started"


def test_a_machine_of_more_than_2_gb_can_be_suspended_up_to_4_or_not_as_the_page_has_it(api, started):
    machines = [started(size="performance-1x"), started(size="performance-2x")]
    api.fly.inject(suspend_mb=2048)
    answers = [api("POST", f"/{machine['id']}/suspend") for machine in machines]
    api.fly.inject()
    assert [answer.status_code for answer in answers] == [200, 412]
    assert answers[1].json()["error"].startswith("failed_precondition: unable to suspend machine: it has 4096 MB")
    assert api("POST", f"/{machines[1]['id']}/suspend").ok


def test_only_a_started_machine_can_be_suspended(api, started):
    refused = api("POST", f"/{api.make_stock()['id']}/suspend")
    assert refused.status_code == 412
    assert refused.json()["error"] == "failed_precondition: unable to suspend machine from current state: 'stopped'"
    machine = started()
    api("POST", f"/{machine['id']}/suspend")
    assert "'suspended'" in api("POST", f"/{machine['id']}/suspend").json()["error"]


def test_a_stop_of_a_suspended_machine_runs_no_handler_and_the_next_start_boots_cold(api, tmp_path):
    os.mkfifo(tmp_path / "ready")
    handler = f"trap 'touch {tmp_path}/handled' INT; echo > {tmp_path}/ready; while :; do sleep 600; done"
    machine = api.create(["sh", "-c", handler])
    (tmp_path / "ready").read_text()
    api("POST", f"/{machine['id']}/suspend")
    assert api("POST", f"/{machine['id']}/stop").ok
    assert api.wait(machine, "stopped").ok
    assert not (tmp_path / "handled").exists()
    assert api("POST", f"/{machine['id']}/start").json()["previous_state"] == "stopped"
    assert (tmp_path / "ready").read_text() == "\n"


def test_a_suspended_machine_is_deleted_without_force_and_its_processes_end(api, tmp_path):
    os.mkfifo(tmp_path / "pid")
    machine = api.create(["sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 600; true"])
    process = psutil.Process(int((tmp_path / "pid").read_text()))
    api("POST", f"/{machine['id']}/suspend")
    assert api("DELETE", f"/{machine['id']}").ok
    assert api.wait(machine, "destroyed").ok
    assert psutil.wait_procs([process], timeout=10)[1] == []


def test_suspend_keeps_an_auto_destroy_machine_and_stop_destroys_it(api, started):
    machine = started(auto_destroy=True)
    api("POST", f"/{machine['id']}/suspend")
    assert api.wait(machine, "suspended").ok
    api("POST", f"/{machine['id']}/stop")
    assert api.wait(machine, "destroyed").ok
    running = started(auto_destroy=True)
    api("POST", f"/{running['id']}/stop")
    assert api.wait(running, "destroyed").ok


@pytest.mark.parametrize("skip_launch", [False, True])
def test_an_update_drops_the_snapshot_and_starts_nothing(api, started, skip_launch):
    machine = started()
    api("POST", f"/{machine['id']}/suspend")
    config = {"image": api.fly.image, "init": {"exec": SLEEP}}
    assert api("POST", f"/{machine['id']}", config=config, skip_launch=skip_launch).ok
    assert api.wait(machine, "stopped").ok
    assert api("POST", f"/{machine['id']}/start").json()["previous_state"] == "stopped"


def test_a_machine_whose_snapshot_is_lost_stays_suspended_and_boots_cold(api, tmp_path):
    os.mkfifo(tmp_path / "pid")
    machine = api.create(["sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 600; true"])
    process = psutil.Process(int((tmp_path / "pid").read_text()))
    api("POST", f"/{machine['id']}/suspend")
    process.kill()
    psutil.wait_procs([process], timeout=10)
    assert api.get(machine["id"])["state"] == "suspended"
    assert api("POST", f"/{machine['id']}/start").json()["previous_state"] == "suspended"
    assert int((tmp_path / "pid").read_text()) != process.pid


def test_the_memory_limit_holds_after_a_resume(api, tmp_path):
    os.mkfifo(tmp_path / "ready")
    grow = (
        "import signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        "signal.sigwait({signal.SIGUSR1})\n"
        "much = b'x' * (400 << 20)\n"
        "signal.pause()\n"
    )
    machine = api.create([sys.executable, "-c", grow], guest={"memory_mb": 256})
    (tmp_path / "ready").read_text()
    api("POST", f"/{machine['id']}/suspend")
    api("POST", f"/{machine['id']}/start")
    assert api("POST", f"/{machine['id']}/signal", signal="SIGUSR1").ok
    assert api.wait(machine, "stopped").ok
    exit_event = api.get(machine["id"])["events"][0]["request"]["exit_event"]
    assert (exit_event["oom_killed"], exit_event["exit_code"]) == (True, 137)


def test_a_program_that_suspends_itself_reads_the_answer_after_it_was_resumed(api, asks_own_socket):
    command, answer = asks_own_socket[0]("/suspend"), asks_own_socket[1]
    machine = api.create(command)
    assert api.wait(machine, "suspended").ok
    assert not answer.exists()
    api("POST", f"/{machine['id']}/start")
    while not answer.exists():
        pass
    assert answer.read_text() == "200"


def test_a_program_can_stop_its_own_machine(api, asks_own_socket):
    machine = api.create(asks_own_socket[0]("/stop"))
    assert api.wait(machine, "stopped").ok
    assert api.get(machine["id"])["events"][0]["request"]["exit_event"]["requested_stop"] is True


def test_a_program_finds_its_own_machine_though_nobody_else_does_yet(api, asks_own_socket):
    api.fly.inject(invisible=600.0)
    machine = api.create(asks_own_socket[0]("/suspend"))
    while (state := api.fly.states()[machine["id"]]) not in {"suspended", "stopped"}:
        pass
    assert api("GET", f"/{machine['id']}").status_code == 404
    api.fly.inject()
    assert (state, api.get(machine["id"])["state"]) == ("suspended", "suspended")


@pytest.mark.parametrize("action", ["/suspend", "/stop", "/start", "DELETE ", "GET "])
def test_through_its_own_socket_a_machine_reaches_no_other_one(api, started, asks_own_socket, action):
    other = started()
    machine = api.create(asks_own_socket[0](action, other["id"]))
    assert api.wait(machine, "stopped").ok
    assert asks_own_socket[1].read_text() == "403"
    assert api.get(other["id"])["state"] == "started"


@pytest.mark.parametrize("action", ["/start", "/restart", "GET "])
def test_through_its_own_socket_a_machine_does_nothing_but_suspend_and_stop(api, asks_own_socket, action):
    machine = api.create(asks_own_socket[0](action))
    assert api.wait(machine, "stopped").ok
    assert asks_own_socket[1].read_text() == "403"


def test_the_socket_is_its_owner_s_alone_and_goes_with_the_machine(api, tmp_path):
    os.mkfifo(tmp_path / "path")
    machine = api.create(["sh", "-c", f"echo $FLY_API_SOCKET > {tmp_path}/path; sleep 600; true"])
    path = Path((tmp_path / "path").read_text().strip())
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    api("DELETE", f"/{machine['id']}?force=true")
    assert api.wait(machine, "destroyed").ok
    assert not path.exists()


@pytest.mark.parametrize("end", ["close", "kill the server", "kill the guard"])
def test_no_suspended_machine_stays_behind(tmp_path, end):
    os.mkfifo(tmp_path / "pid")
    with LocalFly(rate_limits=False, image=0.1) as fly:
        api = Api(fly)
        machine = api.create(["sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 600; true"])
        process = psutil.Process(int((tmp_path / "pid").read_text()))
        assert api("POST", f"/{machine['id']}/suspend").ok
        api.session.close()
        if end != "close":
            psutil.Process(fly.server_pid if "server" in end else fly.pid).kill()
    assert psutil.wait_procs([process], timeout=10)[1] == []


def test_a_deep_folder_for_temporary_files_is_no_hindrance(tmp_path, monkeypatch):
    deep = tmp_path / uuid.uuid4().hex / uuid.uuid4().hex / uuid.uuid4().hex
    deep.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(deep))
    with LocalFly(rate_limits=False, image=0.1) as fly:
        api = Api(fly)
        assert api.wait(api.create(), "started").ok
        api.session.close()


@pytest.mark.parametrize("edited", ["top.py", "package/inner.py", "beside/module.py", None])
def test_a_machine_whose_code_was_edited_while_it_was_suspended_boots_anew(tmp_path, monkeypatch, edited):
    for folder in ("package", "beside", ".venv", "data"):
        (tmp_path / folder).mkdir()
    for file in ("top.py", "package/inner.py", "beside/module.py", ".venv/pyvenv.cfg"):
        (tmp_path / file).write_text("X = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "beside"))
    os.mkfifo(tmp_path / "pid")
    with LocalFly(rate_limits=False) as fly:
        api = Api(fly)
        machine = api.create(["sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 600"])
        before = psutil.Process(int((tmp_path / "pid").read_text()))
        assert api.wait(machine, "started").ok
        assert api("POST", f"/{machine['id']}/suspend").ok
        assert api.wait(machine, "suspended").ok
        (tmp_path / "data/rows.csv").write_text("1\n")
        (tmp_path / ".venv/installed.py").write_text("X = 1\n")
        if edited:
            (tmp_path / edited).write_text("X = 22\n")
        assert api("POST", f"/{machine['id']}/start").json()["previous_state"] == "suspended"
        if edited:
            assert int((tmp_path / "pid").read_text()) != before.pid
        assert api.wait(machine, "started").ok
        assert before.is_running() is not bool(edited)
        api.session.close()
