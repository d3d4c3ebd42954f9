"""A command can be run in a machine that is started, and its processes seen."""

import contextlib
import os
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

from flyexecutor.local.inside import execute as run_inside
from flyexecutor.local.inside import list_processes
from flyexecutor.local.problems import Refused


@pytest.fixture
def started(api):
    machine = api.create(env={"COLOUR": "red"})
    assert api.wait(machine, "started").ok
    yield machine
    api("DELETE", f"/{machine['id']}?force=true")


def execute(api, machine, **body):
    return api("POST", f"/{machine['id']}/exec", **body)


def test_a_command_runs_in_the_machine_s_environment(api, started):
    command = ["sh", "-c", "echo $COLOUR $FLY_MACHINE_ID; cat; echo trouble >&2; exit 3"]
    answer = execute(api, started, command=command, stdin="given")
    assert answer.status_code == 200
    expected = {"exit_code": 3, "exit_signal": 0, "stdout": f"red {started['id']}\ngiven", "stderr": "trouble\n"}
    assert answer.json() == expected


@pytest.mark.parametrize("look", [list_processes, lambda machine: run_inside(None, machine, ["true"], "", 1)])
def test_of_a_machine_whose_program_has_just_ended_nothing_is_shown_or_run(look):
    ending = SimpleNamespace(id="m", state="started", pid=None)
    with pytest.raises(Refused, match="unable to"):
        look(ending)


def test_an_older_client_sends_a_command_as_one_text(api, started):
    assert execute(api, started, cmd="echo 'a  b' c").json()["stdout"] == "a  b c\n"
    assert execute(api, started, cmd="echo 'a").status_code == 400


@pytest.mark.parametrize(
    ("command", "code", "number"),
    [(["/no/such/program"], 127, 0), (["sh", "-c", "kill -9 $$"], 137, 9), (["true"], 0, 0)],
)
def test_how_a_command_ends_is_an_answer_and_no_error(api, started, command, code, number):
    answer = execute(api, started, command=command)
    assert answer.status_code == 200
    assert (answer.json()["exit_code"], answer.json()["exit_signal"]) == (code, number)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"command": []},
        {"command": "true"},
        {"command": ["true", 1]},
        {"command": ["a\0b"]},
        {"command": ["\ud800"]},
        {"command": ["true"], "timeout": -1},
        {"command": ["true"], "timeout": 3601},
        {"command": ["true"], "timeout": "1"},
        {"command": ["true"], "stdin": 1},
    ],
)
def test_what_is_no_command_is_refused(api, started, body):
    refused = execute(api, started, **body)
    assert (refused.status_code, bool(refused.json()["error"])) == (400, True)


def test_a_command_ends_with_its_time_and_all_that_it_has_started(api, started, tmp_path):
    command = ["sh", "-c", f"sleep 600 & echo $! > {tmp_path}/child; wait"]
    late = execute(api, started, command=command, timeout=1)
    assert (late.status_code, late.json()["error"].split(":")[0]) == (408, "deadline_exceeded")
    await_end(int((tmp_path / "child").read_text()))
    assert api.get(started["id"])["state"] == "started"


def test_what_a_command_leaves_behind_keeps_nobody_waiting(api, started, tmp_path):
    """A daemon in a session of its own holds the command's output open."""
    daemon = f"""
import os, sys
if os.fork() == 0:
    os.setsid()
    open({str(tmp_path / "daemon")!r}, "w").write(str(os.getpid()))
    os.execvp("sleep", ["sleep", "600"])
print("left")
while not os.path.exists({str(tmp_path / "daemon")!r}): pass
"""
    answer = execute(api, started, command=["python", "-c", daemon])
    pid = int((tmp_path / "daemon").read_text())
    try:
        assert answer.json()["stdout"] == "left\n"
    finally:
        os.kill(pid, 9)


def test_a_command_that_writes_without_end_is_read_and_not_kept(api, started):
    script = "import os, sys; [os.write(1, b'x' * 65536) for _ in range(64)]; os.write(2, b'end')"
    answer = execute(api, started, command=["python", "-c", script]).json()
    assert (len(answer["stdout"]), set(answer["stdout"])) == (1024 * 1024, {"x"})
    assert answer["stderr"] == "end"


def test_output_that_is_no_text_is_shown_as_well_as_it_can(api, started):
    assert execute(api, started, command=["printf", "a\\377b"]).json()["stdout"] == "a\ufffdb"


@pytest.mark.parametrize(
    ("action", "body"),
    [("stop", {}), ("signal", {"signal": "SIGKILL"})],  # killed, it starts again at once
)
def test_a_command_ends_with_its_machine(api, tmp_path, action, body):
    machine = api.create(restart={"policy": "always"})
    assert api.wait(machine, "started").ok
    answers = []

    def ask():
        answers.append(execute(api, machine, command=["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 600"]))

    asking = threading.Thread(target=ask)
    asking.start()
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    assert api.raw("POST", f"/apps/{api.fly.app}/machines/{machine['id']}/{action}", json=body).ok
    asking.join(20)
    assert answers[0].status_code == 412
    assert "has stopped, and the command with it" in answers[0].json()["error"]
    await_end(int((tmp_path / "pid").read_text()))
    api("DELETE", f"/{machine['id']}?force=true")


def test_nothing_runs_in_a_machine_that_is_not_started(api):
    machine = api.create(skip_launch=True)
    for refused in (execute(api, machine, command=["true"]), api("GET", f"/{machine['id']}/ps")):
        assert (refused.status_code, refused.json()["error"].split(":")[0]) == (412, "failed_precondition")


def test_the_processes_of_a_machine_are_told(api, tmp_path):
    script = (
        "import socket, subprocess, sys;"
        "s = socket.create_server(('127.0.0.1', 0)); subprocess.Popen(['sleep', '600']);"
        "open(sys.argv[1], 'w').write(str(s.getsockname()[1])); s.accept()"
    )
    path = tmp_path / "port"
    machine = api.create(["python", "-c", script, str(path)])
    try:
        assert api.wait(machine, "started").ok
        while not path.exists() or not (port := path.read_text()):
            time.sleep(0.01)
        found = api("GET", f"/{machine['id']}/ps?sort_by=pid").json()
        assert [process["pid"] for process in found] == sorted(process["pid"] for process in found)
        main, child = sorted(found, key=lambda process: process["command"] == "sleep 600")
        assert child["command"] == "sleep 600"
        assert main["listen_sockets"] == [{"proto": "tcp", "address": f"127.0.0.1:{port}"}]
        assert main["directory"] == os.getcwd()
        assert main["rss"] > 1_000_000
        backwards = api("GET", f"/{machine['id']}/ps?sort_by=pid&order=desc").json()
        assert [process["pid"] for process in backwards] == [process["pid"] for process in reversed(found)]
        for query in ("sort_by=beauty", "order=random"):
            assert api("GET", f"/{machine['id']}/ps?{query}").status_code == 400
    finally:
        api("DELETE", f"/{machine['id']}?force=true")


def await_end(pid):
    """Until a process is gone, or has ended and waits for its parent."""
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
