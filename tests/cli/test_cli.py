"""The command `flyexecutor`, against a real Machines API and a real Redis."""

import io
import json
import os
import pty
import re
import secrets
import signal
import subprocess
import sys
import termios
import threading
import time
from urllib.parse import urlsplit

import pytest
import responses
from click.testing import CliRunner
from rich.cells import cell_len
from rich.console import Console

from flyexecutor import Retry
from flyexecutor.cli import checks, main
from flyexecutor.cli.calls import added
from flyexecutor.cli.common import dollars, seconds
from flyexecutor.cli.ps import Seen, _render
from flyexecutor.client import threads
from flyexecutor.fleet import api as machines
from flyexecutor.fleet.stock import MachineInfo
from flyexecutor.payload.trust import Trust, derive_key
from flyexecutor.states import State
from flyexecutor.store.listing import CallRecord, LaneRecord, Overview
from tests import tasks
from tests.tasks import Gate

WAIT = 30.0
OURS = (
    "FLYEXECUTOR_SECRET",
    "FLYEXECUTOR_SECRET_FALLBACKS",
    "FLYEXECUTOR_KEY",
    "FLY_IMAGE_REF",
    "FLY_REGION",
    "FLY_API_HOSTNAME",
    "COLUMNS",
)
VARIABLES = ("FLY_TASKS_APP", "FLY_API_TOKEN", "REDIS_URL", "WORKER_IMAGE")


@pytest.fixture
def environ(local_fly):
    """What a shell has that uses the local Fly; None: not set."""
    return {**dict.fromkeys(OURS), **local_fly.environ()}


@pytest.fixture
def run(environ):
    """Runs the command in this process; looks that no secret was shown, whatever it was run with."""

    def run(*arguments, columns=120, **changes):
        env = {**environ, "COLUMNS": str(columns), **changes}
        ran = CliRunner().invoke(main, arguments, env=env, prog_name="flyexecutor")
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        for secret in secrets_of(env):
            assert secret not in ran.output
        return ran

    return run


@pytest.fixture
def run_json(run):
    def run_json(*arguments, **changes):
        ran = run(*arguments, "--json", **changes)
        return json.loads(ran.stdout), ran.exit_code

    return run_json


@pytest.fixture
def gate(tmp_path):
    return Gate.make(tmp_path)


def secrets_of(env):
    secret = env.get("FLYEXECUTOR_SECRET")
    told = {env["FLY_API_TOKEN"], secret, urlsplit(env["REDIS_URL"] or "").password}
    if env["FLY_API_TOKEN"] and env["FLY_TASKS_APP"]:
        told.add(derive_key(secret or env["FLY_API_TOKEN"], env["FLY_TASKS_APP"]).hex())
    return {one.strip() for one in told if one}


def command(environ, *arguments, **options):
    """The command as a process of its own."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for name, value in environ.items():
        env.pop(name, None)
        if value:
            env[name] = value
    return subprocess.Popen([sys.executable, "-m", "flyexecutor.cli", *arguments], env=env, **options)


def submit_at_gate(executor, gate):
    """A call that runs and has said how far it is."""
    told = threading.Event()
    future = executor.submit(tasks.report_progress, gate)
    future.add_progress_callback(lambda _: told.set())
    gate.wait_for_entry()
    assert told.wait(WAIT)
    return future


# ps


def test_ps_tells_of_machines_and_of_calls_that_run_or_wait(make_executor, gate, run_json):
    executor = make_executor(max_workers=1)
    first = submit_at_gate(executor, gate)
    second = executor.submit(tasks.increment, 1)
    executor.flush()
    told, code = run_json("ps")
    calls = {call["id"]: call for call in told["calls"]}
    running, queued = calls[first.id], calls[second.id]
    assert code == 0
    assert (running["state"], running["attempt"], running["machine_id"]) == ("RUNNING", 1, first.machine_id)
    assert (running["name"], queued["name"]) == ("report_progress", "increment")
    assert running["progress"] == {"done": 1, "total": 4, "note": "a quarter"}
    assert running["running_seconds"] >= 0
    assert (queued["state"], queued["attempt"], queued["machine_id"]) == ("QUEUED", 0, "")
    assert (queued["running_seconds"], queued["progress"]) == (None, None)
    machine = next(one for one in told["machines"] if one["id"] == first.machine_id)
    assert (machine["state"], machine["guest"], machine["keeper"]) == ("started", "shared-cpu-1x", True)
    lane = next(lane for lane in told["lanes"] if lane["name"] == running["lane"])
    assert (lane["queued"], lane["running"], lane["workers"]) == (1, 1, 1)
    gate.open()
    assert second.result(WAIT) == 2
    told, _ = run_json("ps")
    assert {first.id, second.id}.isdisjoint(call["id"] for call in told["calls"])


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_ps_has_one_line_for_a_call_within_the_width_of_the_terminal(make_executor, gate, run, columns):
    future = submit_at_gate(make_executor().with_options(name="the report of Märch"), gate)
    lines = run("ps", columns=columns).output.splitlines()
    gate.open()
    assert max(map(len, lines)) <= columns
    (line,) = [line for line in lines if future.id[:12] in line]
    words = ["RUNNING", "the repo"]
    words += [future.machine_id, "the report of Märch"] * (columns >= 80)
    words += ["1/4 a quarter"] * (columns >= 120)
    words += [future.id] * (columns >= 200)
    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize("columns", [40, 80])
def test_ps_in_a_terminal_shows_a_hundred_calls_and_ids_that_name_one_each(make_executor, gate, environ, columns):
    executor = make_executor(max_workers=1)
    submit_at_gate(executor, gate)
    futures = [executor.submit(tasks.increment, n) for n in range(120)]
    executor.flush()
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    with command({**environ, "TERM": "xterm"}, "ps", stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        text = read_until(ours, None)
        assert process.wait(WAIT) == 0
    os.close(ours)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    gate.open()
    assert max(map(len, lines)) <= columns
    shown = [line.split()[0] for line in lines if "QUEUED  " in line and "incre" in line]
    found = [[short for short in shown if future.id.startswith(short)] for future in futures]
    assert [len(one) for one in found] == [1] * 120
    assert len({one for (one,) in found}) == 120


def test_ps_lists_a_call_that_waits_for_its_retry(make_executor, tmp_path, run_json, local_redis):
    executor = make_executor().with_options(retries=Retry(attempts=2, on=ValueError, wait=3600))
    future = executor.submit(tasks.raise_at_first, tmp_path / "attempts", 1, ValueError("not yet"))
    while not local_redis.zrange(f"fly:{{local}}:due:{executor._lane.name}", 0, -1):
        assert not future.done()
    told, _ = run_json("ps")
    call = next(call for call in told["calls"] if call["id"] == future.id)
    assert (call["state"], call["attempt"]) == ("QUEUED", 1)
    assert next(lane["queued"] for lane in told["lanes"] if lane["name"] == call["lane"]) == 1


def test_ps_shows_no_more_calls_than_its_limit_and_counts_the_others(make_executor, gate, run, run_json):
    executor = make_executor(max_workers=1)
    submit_at_gate(executor, gate)
    for _ in range(5):
        executor.submit(tasks.increment, 1)
    executor.flush()
    assert len(run_json("ps", "--limit", "3")[0]["calls"]) == 3
    assert "(3 shown)" in run("ps", "--limit", "3").output
    gate.open()


def test_a_long_queue_hides_no_call_that_another_lane_runs(make_executor, gate, run_json):
    future = submit_at_gate(make_executor(), gate)
    other = make_executor(env={"OTHER": "1"}, max_workers=1)
    other.submit(signal.pause)
    for _ in range(5):
        other.submit(tasks.increment, 1)
    other.flush()
    told, _ = run_json("ps", "--limit", "4")
    assert future.id in {call["id"] for call in told["calls"]}
    gate.open()


def test_progress_that_somebody_else_wrote_into_redis_does_no_harm(make_executor, gate, run, run_json, local_redis):
    future = submit_at_gate(make_executor(), gate)
    key = f"fly:{{local}}:call:{future.id}"
    for progress, shown in ((b"{", None), (b"[1]", None), (b'[1, null, "\\u001b[2J[red]x"]', "\x1b[2J[red]x")):
        local_redis.hset(key, "progress", progress)
        call = next(call for call in run_json("ps")[0]["calls"] if call["id"] == future.id)
        assert (call["progress"] or {}).get("note") == shown  # JSON escapes what moves a cursor
        assert run("ps").exit_code == 0
        assert "\x1b[2J" not in run("ps").output + run("ps", "--json").output
        assert "\x1b[2J" not in run("ps").output
    gate.open()


def test_ps_watch_shows_a_call_that_comes_later_and_ends_by_ctrl_c(make_executor, gate, environ):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    with command({**environ, "TERM": "xterm"}, "ps", "--watch", stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        read_until(ours, "queued")
        future = submit_at_gate(make_executor(), gate)
        text = read_until(ours, future.id[:12])
        process.send_signal(signal.SIGINT)
        text += read_until(ours, None)
        assert process.wait(WAIT) == 0
    os.close(ours)
    gate.open()
    assert "Traceback" not in text


@pytest.mark.parametrize("columns", [40, 60, 70, 80, 120, 200])
@pytest.mark.parametrize(("running", "resting", "rows"), [(0, 0, 24), (50, 50, 24), (3, 50, 40), (50, 0, 60)])
def test_a_watched_screen_is_filled_and_not_exceeded(columns, running, resting, rows):
    lane = LaneRecord("lane", 0.0, resting, running, running)
    said = b'[1, 9, "' + b"x" * 99 + b'"]'
    calls = [
        CallRecord(
            f"6b0548fa{n * 0x9E3779B1 % 2**32:08x}{n:032}",
            state,
            int(state == "RUNNING"),
            *("m" * 14, "fra", "lane", 5e6, 5e6, said),
            name="報" * 60,
        )
        for n, state in enumerate([State.RUNNING] * running + [State.QUEUED] * resting)
    ]
    made = [
        MachineInfo("m" * 14, "", "started", "fra", "shared-cpu-1x", "lane", True, 5e6, 0.5, "", 0.0)
        for _ in range(running + resting)
    ]
    console = Console(width=columns, height=rows, file=io.StringIO(), markup=False)
    console.print(_render(Seen(made, Overview(calls, [lane])), columns, rows))
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= rows
    assert max(map(cell_len, lines)) <= columns
    assert not running + resting or len(lines) >= rows - 9
    machines = [line for line in lines if line.startswith("m" * 14)]
    assert bool(machines) == bool(made)
    assert not [line for line in machines if "…" in line]
    ids = [line.split()[0] for line in lines if "RUNNING" in line or "QUEUED" in line]
    assert len(ids) == len(set(ids))
    assert bool(ids) == bool(calls)


def read_until(terminal, word):
    """What comes from a terminal until there is a word in it; None: until its end."""
    text = ""
    while word is None or word not in text:
        try:
            text += os.read(terminal, 65536).decode()
        except OSError:  # Linux: the other side is closed
            assert word is None, text
            break
    return text


# logs


def test_logs_shows_what_a_call_has_printed(executor, run, run_json):
    future = executor.submit(tasks.print_lines, "one", "two")
    future.result(WAIT)
    ran = run("logs", future.id)
    assert (ran.exit_code, ran.stdout) == (0, "one\ntwo\n")
    assert run("logs", future.id, "--follow").stdout == "one\ntwo\n"
    told, code = run_json("logs", future.id)
    expected = {"id": future.id, "name": "print_lines", "state": "SUCCEEDED", "attempt": 1, "logs": "one\ntwo\n"}
    assert (told, code) == (expected, 0)


def test_logs_of_a_call_that_has_printed_nothing_says_so_beside_them(make_executor, gate, run, run_json):
    executor = make_executor(max_workers=1, env={"CASE": "printed nothing"})  # no machine of another test takes these
    running, queued = executor.submit(gate.enter), executor.submit(tasks.increment, 1)
    gate.wait_for_entry()
    executor.flush()
    for future, state in ((running, "RUNNING"), (queued, "QUEUED")):
        ran = run("logs", future.id)
        assert (ran.exit_code, ran.stdout, ran.stderr) == (0, "", f"It is {state} and has printed nothing yet.\n")
    assert run_json("logs", queued.id)[0]["logs"] == ""
    gate.open()
    assert queued.result(WAIT) == 2
    ran = run("logs", "--follow", queued.id)
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, "", "It is SUCCEEDED and has printed nothing.\n")


def test_logs_follow_shows_lines_as_they_come_and_ends_with_the_call(make_executor, gate, environ):
    future = make_executor().submit(tasks.print_and_enter, gate, "before the gate")
    gate.wait_for_entry()
    with command(environ, "logs", "-f", future.id, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "before the gate\n"
        assert process.poll() is None
        gate.open()
        assert process.stdout.read() == ""
        assert process.wait(WAIT) == 0


def test_logs_of_a_call_that_never_was_or_has_expired_is_one_sentence(executor, run, local_redis):
    ran = run("logs", "0" * 48)
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "no call has the id" in ran.stderr
    future = executor.submit(tasks.increment, 1)
    future.result(WAIT)
    local_redis.delete(f"fly:{{local}}:call:{future.id}")
    ran = run("logs", future.id)
    assert (ran.exit_code, ran.stderr.count("\n")) == (1, 1)
    assert "no longer known" in ran.stderr


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        ("", "a\n", "a\n"),
        ("a\n", "a\nb\n", "b\n"),
        ("a\n", "a\n", ""),
        ("a\nb\nc\n", "c\nd\n", "d\n"),  # cut off at the front
        ("a\n", "z\n", "z\n"),
    ],
)
def test_what_is_new_in_a_text_that_is_cut_off_at_its_front_is_told_once(before, now, new):
    assert added(before, now) == new


# kill


def test_kill_tells_what_came_of_each_call(make_executor, gate, run_json, run):
    executor = make_executor(max_workers=1)
    done = executor.submit(tasks.increment, 1)
    done.result(WAIT)
    running = executor.submit(tasks.hang, gate)
    gate.wait_for_entry()
    queued = executor.submit(tasks.increment, 1)
    executor.flush()
    told, code = run_json("kill", running.id, queued.id, done.id, "0" * 48)
    assert [call["result"] for call in told["calls"]] == ["killed", "killed", "already done", "unknown"]
    assert code == 1
    assert running.exception(WAIT)
    assert queued.cancelled()
    ran = run("kill", running.id, done.id)
    shown = f"{running.id}  already done  hang\n{done.id}  already done  increment\n"
    assert (ran.exit_code, ran.stdout) == (0, shown)
    assert run("kill").exit_code == 2


def test_kill_tells_of_a_call_of_map_which_leaves_no_record(make_executor, gate, run_json):
    def running():
        return {call["id"] for call in run_json("ps")[0]["calls"] if call["state"] == "RUNNING"}

    others = running()  # of earlier tests
    results = make_executor().map(tasks.hang, [gate])
    gate.wait_for_entry()
    (call_id,) = running() - others
    told, code = run_json("kill", call_id)
    assert (told["calls"], code) == ([{"id": call_id, "name": "hang", "result": "killed"}], 0)
    with pytest.raises(Exception, match="killed"):
        next(results)


def test_no_command_but_doctor_starts_a_thread_that_it_does_not_need(make_executor, gate, run, monkeypatch):
    future = make_executor().submit(tasks.hang, gate)
    gate.wait_for_entry()
    started = []
    start = threads.Threads._start

    def note(self, run_it, name):
        started.append(name)
        start(self, run_it, name)

    monkeypatch.setattr(threads.Threads, "_start", note)
    for arguments in (("ps",), ("logs", future.id), ("reap", "--dry-run"), ("doctor", "--no-call")):
        assert run(*arguments).exit_code == 0
    assert started == []
    assert run("kill", future.id).exit_code == 0
    assert "fleet" not in started


# Ids that are cut off


@pytest.fixture
def ids(monkeypatch, local_redis):
    """The next calls of this process have ids that begin so, and are ours all the same; the end forgets them."""
    made = []

    def begin_with(*bodies):
        trust = Trust.new_call_id
        left = list(bodies)

        def make(self, key=None):
            body = bytes.fromhex((left.pop(0) + secrets.token_hex(16))[:32])
            made.append((body + self._tag(self._key, body)).hex())
            return made[-1]

        monkeypatch.setattr(Trust, "new_call_id", lambda *told: make(*told) if left else trust(*told))

    yield begin_with
    if made:
        local_redis.delete(*(f"fly:{{local}}:call:{call_id}" for call_id in made))


def test_ids_may_be_cut_off_for_calls_that_have_ended_too(make_executor, gate, ids, run, run_json):
    ids("abcdef01", "abcdef02")
    executor = make_executor(max_workers=1)
    done = executor.submit(tasks.print_lines, "one")
    done.result(WAIT)
    running = executor.submit(tasks.hang, gate)
    gate.wait_for_entry()
    assert run("logs", done.id[:8]).stdout == "one\n"
    assert run_json("logs", done.id[:8].upper())[0]["id"] == done.id
    told, code = run_json("kill", running.id[:8], done.id[:30])
    assert (told["calls"], code) == (
        [
            {"id": running.id, "name": "hang", "result": "killed"},
            {"id": done.id, "name": "print_lines", "result": "already done"},
        ],
        0,
    )


def test_an_id_that_is_cut_off_too_much_kills_nothing_and_the_calls_are_named(make_executor, gate, ids, run):
    ids("abcdef11", "abcdef12", *(f"abcdef1a{n:02}" for n in range(20)))
    executor = make_executor(max_workers=1)
    running = executor.with_options(name="the running\none").submit(gate.enter)
    gate.wait_for_entry()
    queued = executor.submit(tasks.increment, 1)
    executor.flush()
    ran = run("kill", queued.id, "abcdef1")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "'abcdef1' begins the ids of 2 calls" in ran.stderr
    assert f"{running.id}  RUNNING  the running\\none\n" in ran.stderr
    assert f"{queued.id}  QUEUED  increment\n" in ran.stderr
    assert run("logs", "abcdef1").exit_code == 1
    for _ in range(20):
        executor.submit(tasks.increment, 1)
    executor.flush()
    ran = run("kill", "abcdef1")
    assert "of 22 calls" in ran.stderr
    assert "and 12 more" in ran.stderr
    assert len(ran.stderr.splitlines()) == 12
    gate.open()
    assert running.result(WAIT)
    assert queued.result(WAIT) == 2


def test_an_id_that_is_cut_off_names_no_call_that_somebody_else_made_up(make_executor, gate, ids, run, local_redis):
    ids("abcdef21")
    future = make_executor().submit(tasks.hang, gate)
    gate.wait_for_entry()
    key = "fly:{local}:call:abcdef2"
    local_redis.hset(key.ljust(len(key) + 41, "0"), mapping={"state": "RUNNING", "attempt": 1})
    local_redis.set(f"{key}\x1b[2J", "no call")
    local_redis.hset(f"{key}z", "state", "nonsense")
    ran = run("kill", "abcdef2")
    assert (ran.exit_code, ran.stdout) == (0, f"{future.id}  killed  hang\n")


@pytest.mark.parametrize("told", ["abc", "abcdef99", "*", "abcd*", "?" * 8, "abcdef 9", "\x1b[2J", "a" * 100])
def test_what_begins_no_id_is_unknown(executor, ids, run, told):
    ids("abcdef31")
    executor.submit(tasks.increment, 1).result(WAIT)
    ran = run("logs", told)
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "no call has the id" in ran.stderr
    assert "\x1b" not in ran.output
    assert run("kill", told).exit_code == 1


# schedules


@pytest.fixture
def scheduler(make_executor):
    executor = make_executor(max_workers=1)
    yield executor
    for schedule in executor.schedules():
        executor.unschedule(schedule.name)


def test_schedules_shows_what_fly_calls_by_itself_and_how_that_went(scheduler, run, run_json):
    assert run("schedules").output == "No schedule.\n"
    made = scheduler.schedule(tasks.raise_value_error, "bad", every="hourly", name="a schedule that fails now and then")
    scheduler.schedule(tasks.increment, 1, every="daily", at_once=False)
    while not (told := sorted(run_json("schedules")[0]["schedules"], key=lambda one: one["name"])[0])["runs"]:
        pass
    call_id = told["runs"][0]["id"]
    assert isinstance(scheduler.future(call_id).exception(WAIT), ValueError)
    told, code = run_json("schedules")
    first, second = sorted(told["schedules"], key=lambda schedule: schedule["name"])
    assert (first["machine_id"], first["function"]) == (made.machine_id, "tests.tasks.raise_value_error")
    assert [(one["id"], one["state"]) for one in first["runs"]] == [(call_id, "FAILED")]
    assert first["runs"][0]["at"] == pytest.approx(time.time(), abs=WAIT)
    assert (second["name"], second["every"], second["runs"], code) == ("increment", "daily", [], 0)
    assert second["next_at"] == pytest.approx(time.time() + 86_400, abs=WAIT)
    for columns in (40, 80, 200):
        lines = run("schedules", columns=columns).output.splitlines()
        assert max(map(len, lines)) <= columns
        text = "\n".join(lines)
        words = [call_id[:12], "FAILED", "increment", "hourly", "a sched"]
        words += [made.machine_id, "a schedule that fail"] * (columns >= 80)
        words += [call_id, "a schedule that fails now and then", "raise_value_error"] * (columns == 200)
        assert [word for word in words if word not in text] == []


def test_schedules_removes_all_that_are_named_or_none(scheduler, run, run_json):
    for name in ("one", "two", "three"):
        scheduler.schedule(tasks.increment, 1, every="daily", name=name, at_once=False)
    ran = run("schedules", "--remove", "one", "--remove", "four")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "no schedule is named 'four': there is one, three, two" in ran.stderr
    ran = run("schedules", "--remove", "one", "--remove", "two", "--remove", "one")
    assert (ran.exit_code, ran.stdout) == (0, "one  removed\ntwo  removed\n")
    assert run_json("schedules", "--remove", "three") == ({"removed": ["three"]}, 0)
    assert run_json("schedules") == ({"schedules": []}, 0)


def test_a_run_whose_outcome_has_expired_still_has_its_time_and_one_that_was_made_up_is_not_shown(
    scheduler, run, run_json, local_redis
):
    scheduler.schedule(tasks.increment, 1, every="monthly", name="rare", at_once=False)
    ours, theirs = Trust(scheduler._settings.key, scheduler._settings.app).new_call_id(), "ab" * 24
    local_redis.lpush("fly:{local}:runs:rare", ours, theirs, "\x1b[2J")
    told, _ = run_json("schedules")
    (seen,) = told["schedules"][0]["runs"]
    assert (seen["id"], seen["state"], seen["at"]) == (ours, None, pytest.approx(time.time(), abs=WAIT))
    assert "expired" in run("schedules").output
    assert "\x1b" not in run("schedules").output


# reap, prepare


def test_prepare_makes_machines_that_rest_and_reap_destroys_them(run, run_json, local_fly, request):
    told, code = run_json("prepare", "2", "--env", f"TEST={request.node.nodeid}", "--region", "fra", "--region", "ams")
    assert (told["ready"], code) == (2, 0)
    resting = [one for one in run_json("ps")[0]["machines"] if one["region"] == "fra" and one["state"] == "suspended"]
    ids = {one["id"] for one in resting if one["keeper"] and "-stock-" in one["name"]}
    assert len(ids) == 2
    assert ids.isdisjoint(one["id"] for one in run_json("reap", "--dry-run")[0]["machines"])  # made just now
    told, code = run_json("reap", "--dry-run", "--older-than", "0")
    assert ids <= {one["id"] for one in told["machines"]}
    assert (told["dry_run"], code) == (True, 0)
    assert {local_fly.states()[one] for one in ids} == {"suspended"}
    ran = run("reap", "--older-than", "0", columns=40)
    assert ran.exit_code == 0
    assert all(one in ran.output for one in ids)
    assert max(map(len, ran.output.splitlines())) <= 40
    assert {local_fly.states()[one] for one in ids} <= {"destroying", "destroyed"}
    assert run("reap").output == "No machine to destroy.\n"


def test_prepare_makes_as_many_as_it_is_told(run, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "flyexecutor.fleet.stock.Stock.prepare", lambda _, lane, *told: asked.append((lane.max_workers, told))
    )
    assert run("prepare", "11").exit_code == 0
    assert [(most, told[0]) for most, told in asked] == [(11, 11)]


def test_prepare_says_why_it_can_not(run):
    assert run("prepare", "0").exit_code == 2
    assert run("prepare", "1", "--env", "novalue").exit_code == 2
    ran = run("prepare", "1", "--guest", "huge")
    assert (ran.exit_code, ran.stderr.count("\n")) == (1, 1)
    assert "guest is 'huge'" in ran.stderr


# doctor


def by_name(told):
    return {check["name"]: check for check in told["checks"]}


def test_doctor_finds_nothing_where_all_is_well(run_json, local_fly):
    told, code = run_json("doctor")
    found = by_name(told)
    assert (code, {check["ok"] for check in told["checks"]}) == (0, {True}), told
    assert set(found) == {
        "settings", "image", "redis", "eviction", "clock", "api", "token", "app", "trial", "call", "python",
        "flyexecutor", "machine clock",
    }  # fmt: skip
    python = ".".join(map(str, sys.version_info[:3]))
    assert found["python"]["detail"] == f"{python} here, {python} there"
    assert "begun after" in found["call"]["detail"]
    assert not any(check["remedy"] for check in told["checks"])


def test_doctor_with_another_redis_leaves_the_machines_of_the_first(run, run_json, environ, request, local_fly):
    assert run("prepare", "2", "--env", f"TEST={request.node.nodeid}").exit_code == 0
    before = {name for name, state in local_fly.states().items() if state == "suspended"}
    assert len(before) >= 2
    elsewhere = environ["REDIS_URL"].removesuffix("/0") + "/1"
    _, code = run_json("doctor", REDIS_URL=elsewhere)
    assert code == 0
    assert before == {name for name in before if local_fly.states()[name] == "suspended"}


def test_doctor_sends_no_call_if_it_is_told_so(run_json, run, local_fly):
    before = set(local_fly.states())
    told, code = run_json("doctor", "--no-call")
    assert (code, "call" in by_name(told)) == (0, False)
    assert "No check failed" in run("doctor", "--no-call").output
    assert set(local_fly.states()) == before


@pytest.mark.parametrize(
    ("changes", "failed", "not_looked_at", "said"),
    [
        ({"FLY_API_TOKEN": "wrong"}, {"token"}, {"app", "call"}, "fly tokens create deploy -a local"),
        ({"FLY_API_TOKEN": "mistaken\n"}, {"settings"}, {"api", "call"}, "a line's end perhaps"),
        ({"FLY_TASKS_APP": "elsewhere"}, {"app"}, {"call"}, "fly apps create elsewhere"),
        ({"WORKER_IMAGE": None}, {"settings", "image"}, {"call"}, "set WORKER_IMAGE"),
        ({"REDIS_URL": "redis://:geheim/x@h:1"}, {"settings"}, {"redis", "call"}, "%2F"),
        ({"FLY_TASKS_APP": None}, {"settings"}, {"api", "call"}, "FLY_TASKS_APP missing"),
        (dict.fromkeys(VARIABLES), {"settings", "image"}, {"redis", "api", "call"}, "a Fly API token"),
    ],
)
def test_doctor_tells_what_is_wrong_and_looks_at_the_rest(run, run_json, changes, failed, not_looked_at, said):
    told, code = run_json("doctor", **changes)
    assert code == 1
    assert {check["name"] for check in told["checks"] if check["ok"] is False} == failed
    assert {check["name"] for check in told["checks"] if check["ok"] is None} == not_looked_at
    assert all(check["remedy"] for check in told["checks"] if check["ok"] is False)
    ran = run("doctor", columns=300, **changes)
    assert ran.exit_code == 1
    assert said in ran.output
    assert f"{len(failed)} of {len(told['checks'])} checks failed" in ran.output


def test_doctor_tells_of_a_redis_that_is_dead(run_json, closed_port):
    told, code = run_json("doctor", REDIS_URL=f"redis://:geheim@127.0.0.1:{closed_port}/0")
    found = by_name(told)
    assert (code, found["redis"]["ok"], found["app"]["ok"], found["call"]["ok"]) == (1, False, True, None)
    assert "can't be reached" in found["redis"]["detail"]


@pytest.mark.parametrize(
    ("wants", "user", "said", "remedy"),
    [
        ("", ":geheim@", "REDIS_URL has a password, and this server has none for its user", "without one"),
        ("right", "", "REDIS_URL has no password, and this server wants one", "password in it"),
        ("right", ":geheim@", "REDIS_URL has a wrong user or password", "password in it"),
        ("right", "ann:geheim@", "REDIS_URL has a wrong user or password", "password in it"),
    ],
)
def test_doctor_tells_what_is_wrong_with_the_password_of_redis(run_json, local_redis, wants, user, said, remedy):
    port = local_redis.connection_pool.connection_kwargs["port"]
    usual = local_redis.config_get("requirepass")["requirepass"]
    local_redis.config_set("requirepass", wants)
    try:
        told, code = run_json("doctor", "--no-call", REDIS_URL=f"redis://{user}127.0.0.1:{port}/0")
    finally:
        local_redis.config_set("requirepass", usual)
    check = by_name(told)["redis"]
    assert (code, check["ok"]) == (1, False)
    assert f"refuses us: {said}" in check["detail"]
    assert remedy in check["remedy"]
    assert "fly redis proxy" not in check["remedy"]


def test_doctor_tells_of_a_redis_that_lets_this_user_do_too_little(run_json, local_redis):
    port = local_redis.connection_pool.connection_kwargs["port"]
    local_redis.execute_command("ACL SETUSER ann on >geheim ~* +auth +hello +client")
    try:
        told, _ = run_json("doctor", "--no-call", REDIS_URL=f"redis://ann:geheim@127.0.0.1:{port}/0")
    finally:
        local_redis.execute_command("ACL DELUSER ann")
    check = by_name(told)["redis"]
    assert (check["ok"], "NOPERM" in check["detail"] or "no permissions" in check["detail"]) == (False, True)
    assert "ACL" in check["remedy"]


def test_doctor_warns_of_addresses_that_go_in_clear(run_json, monkeypatch):
    monkeypatch.setattr(checks, "goes_in_clear", lambda _url: True)
    told, code = run_json("doctor", "--no-call")
    found = by_name(told)
    assert (code, found["redis"]["ok"], found["api"]["ok"]) == (0, True, True)
    assert "use rediss://" in found["redis"]["remedy"]
    assert "use https://" in found["api"]["remedy"]


def test_doctor_warns_of_a_redis_that_evicts(run, run_json, local_redis):
    local_redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        told, code = run_json("doctor", "--no-call")
        assert "warning" in run("doctor", "--no-call").output
    finally:
        local_redis.config_set("maxmemory-policy", "noeviction")
    check = by_name(told)["eviction"]
    assert (code, check["ok"], check["detail"]) == (0, True, "on (allkeys-lru)")
    assert "turn eviction off" in check["remedy"]


def test_doctor_tells_of_a_machine_that_can_not_run_a_call(run_json, local_fly):
    local_fly.inject(no_capacity=["iad"])
    try:
        # Another image: the machine of an earlier doctor may be there still.
        told, code = run_json("doctor", "--boot-timeout", "1", WORKER_IMAGE=f"{local_fly.image}-2")
    finally:
        local_fly.inject()
    check = by_name(told)["call"]
    assert (code, check["ok"]) == (1, False)
    assert "MachineStartError" in check["detail"]
    assert "fly logs -a local" in check["remedy"]


@pytest.mark.parametrize(
    ("listed", "stopped", "failed", "said"),
    [
        (200, 404, set(), ""),
        (200, 403, {"token"}, "may look at the app 'tasks', but not act on it (403)"),
        (401, None, {"token"}, "not accepted (401)"),
        (403, None, {"token"}, "not for the app 'tasks' (403)"),
        (404, None, {"app"}, "there is no app 'tasks'"),
        (500, None, {"api"}, "answered 500"),
    ],
)
def test_what_a_token_may_is_told_apart(listed, stopped, failed, said, monkeypatch):
    monkeypatch.setattr(machines, "FIRST_PAUSE", 0.0)
    base = "https://api.machines.dev/v1/apps/tasks/machines"
    with responses.RequestsMock() as api:
        api.get(base, json=[] if listed == 200 else {"error": "no"}, status=listed)
        if stopped:
            api.post(f"{base}/{checks.NO_MACHINE}/stop", json={"error": "no"}, status=stopped)
        given = {"app": "tasks", "token": "geheim", "api_url": "https://api.machines.dev"}
        made = list(checks.check_fly(given))
    assert {check.name for check in made if check.ok is False} == failed
    assert said in " ".join(check.detail for check in made)


API = "https://api.machines.dev/v1"
GIVEN = {"app": "tasks", "token": "geheim", "api_url": "https://api.machines.dev"}


def ask_fly(listed, regions=(501, {"error": "not there"}), **options):
    """What doctor finds at an API that has these machines and regions."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as api:
        api.get(f"{API}/apps/tasks/machines", json=listed)
        api.post(f"{API}/apps/tasks/machines/{checks.NO_MACHINE}/stop", json={"error": "no"}, status=404)
        api.get(f"{API}/platform/regions", json=regions[1], status=regions[0])
        return {check.name: check for check in checks.check_fly(GIVEN, **options)}


@pytest.mark.parametrize(
    ("answer", "ok", "said"),
    [
        ((200, {"regions": [{"code": "ams"}, {"code": "fra"}]}), True, "fra is a region of Fly"),
        ((200, {"regions": [{"code": "ams"}, {"code": "iad"}]}), False, "Fly has no region 'fra'"),
        ((501, {"error": "not implemented"}), None, "fra: this API does not tell which regions there are (501)"),
        ((200, {"regions": "?"}), None, "fra: this API does not tell which regions there are (200)"),
    ],
)
def test_doctor_asks_fly_whether_there_is_such_a_region(answer, ok, said):
    check = ask_fly([], answer, region="fra")["region"]
    assert (check.ok, check.detail) == (ok, said)
    assert ("ams, iad" in check.remedy) is (ok is False)
    assert "region" not in ask_fly([], answer, region="")


def ended_after(seconds):
    events = [("exit", "stopped", 1000 + seconds), ("start", "started", 1000), ("launch", "created", 990)]
    told = [{"type": kind, "status": status, "timestamp": at * 1000} for kind, status, at in events]
    config = {"metadata": {"flyexecutor": "lane"}}
    return {"id": "4d89", "state": "stopped", "config": config, "events": told}


@pytest.mark.parametrize(("seconds", "warns"), [(20, False), (302, True), (400, False)])
def test_doctor_warns_if_a_machine_has_ended_after_the_five_minutes_of_a_trial(seconds, warns):
    check = ask_fly([ended_after(5), ended_after(seconds)])["trial"]
    assert (check.ok, bool(check.remedy)) == (True, warns)
    assert ("machine 4d89 ended 302 s after its start" in check.detail) is warns
    assert ("https://fly.io/trial" in check.remedy) is warns
    assert "5 minutes" in check.detail  # what a trial means is said in any case


# All of them


@pytest.mark.parametrize(
    "arguments", [("ps",), ("logs", "ID"), ("kill", "ID"), ("reap",), ("prepare", "1"), ("doctor",)]
)
def test_what_is_missing_or_dead_is_told_in_one_sentence_without_secrets(arguments, run, closed_port):
    dead = f"redis://default:geheim@127.0.0.1:{closed_port}/0"
    for changes in (dict.fromkeys(VARIABLES), {"REDIS_URL": dead}, {"REDIS_URL": "redis://u:geheim/x@h"}):
        if arguments == ("prepare", "1") and changes.get("REDIS_URL") == dead:
            continue  # a prepared machine would wait for this Redis
        ran = run(*arguments, FLYEXECUTOR_SECRET="Zy0uCkGJ3xWq8mSbnR1TfA5hVdE7oLpK", **changes)
        assert ran.exit_code == 1
        assert "geheim" not in ran.output
        assert "Traceback" not in ran.output
        if arguments == ("kill", "ID") and changes.get("REDIS_URL") == dead:
            assert ran.stdout == "ID  unknown\n"  # an id that is none needs no Redis
        elif arguments != ("doctor",):
            assert ran.stderr.startswith("Error: ")
            assert ran.stderr.count("\n") == 1
            assert "argument" not in ran.stderr


def test_arguments_go_before_the_environment(run, environ):
    ran = run("ps", "--app", "elsewhere", "--redis-url", environ["REDIS_URL"], REDIS_URL="redis://nowhere.invalid")
    assert ran.exit_code == 1
    assert "'elsewhere'" in ran.stderr


def test_a_token_can_not_be_an_argument(run, environ):
    for name in main.commands:
        assert "--token" not in run(name, "--help").output.lower()
    assert run("ps", "--token", "x").exit_code == 2


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_missing_package_is_told_with_what_installs_it(missing):
    script = f"import sys; sys.modules[{missing!r}] = None; import flyexecutor.cli"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"the command flyexecutor needs {missing}: pip install 'flyexecutor[cli]'\n"


def test_times_and_prices_are_told_with_the_figures_that_matter():
    spans = [seconds(number) for number in (0.04, 9.94, 59.6, 185, 7620, 273600, None)]
    assert spans == ["0.0 s", "9.9 s", "1m00s", "3m05s", "2h07m", "3d04h", ""]
    assert [dollars(number) for number in (0.00123, 3.2, None)] == ["$0.0012", "$3.20", ""]
