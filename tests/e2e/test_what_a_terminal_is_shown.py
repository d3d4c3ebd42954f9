"""What comes from elsewhere is shown so that it moves no cursor, hides no line and turns no text around."""

import os
import re
import subprocess
import sys
import traceback

import pytest
from click.testing import CliRunner

from flyexecutor import CallKilledError, MachinesError, WorkerCrashedError
from flyexecutor.cli import main
from tests import tasks

WAIT = 30.0
ODD = "\x1b[2J\x1b]0;title\x07 \x9b1A \u202eabc\u2066 over\rwritten"
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
PRINTS = rf"""
from flyexecutor import FlyMachineExecutor

with FlyMachineExecutor(local=True, max_workers=1) as ex:
    ex.submit(print, {ODD!r} + "\n\x1b[3A\u202ethe second line\twith a tab").result()
"""


def shown(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc))


@pytest.fixture
def run(local_fly):
    def run(*arguments):
        ran = CliRunner().invoke(main, arguments, env={**local_fly.environ(), "COLUMNS": "400"})
        assert ran.exit_code == 0, ran.output
        return ran.stdout_bytes.decode()  # as it is: the other attributes know one end of lines

    return run


def test_what_a_call_has_printed_is_shown_with_its_lines_and_tabs_and_raw_if_asked_for(make_executor, run):
    printed = f"{ODD}\n\tin a column\r\nthe last"
    future = make_executor().submit(print, printed)
    future.result(WAIT)
    said = run("logs", future.id)
    assert not ACTS.search(said.replace("\r\n", "\n"))
    assert r"\x1b[2J\x1b]0;title\x07 \x9b1A \u202eabc\u2066 over\rwritten" in said
    assert "\n\tin a column\r\nthe last\n" in said
    assert run("logs", "--raw", future.id) == f"{printed}\n"


def test_what_somebody_has_written_into_a_record_is_shown_by_ps_on_a_line_of_its_own(
    make_executor, run, local_redis, tmp_path
):
    gate = tasks.Gate.make(tmp_path)
    future = make_executor().submit(gate.enter)
    gate.wait_for_entry()
    key = f"fly:{{local}}:call:{future.id}"
    for field in ("machine", "region", "name"):
        local_redis.hset(key, field, ODD)
    local_redis.hset(key, "progress", '[1, 2, "' + ODD.encode("unicode_escape").decode().replace("\\x", "\\u00") + '"]')
    said = run("ps")
    gate.open()
    future.exception(WAIT)
    assert not ACTS.search(said)
    (line,) = [line for line in said.splitlines() if future.id in line]
    assert line.count(r"\x1b[2J") >= 2


def test_the_traceback_of_a_machine_and_our_notes_move_no_cursor(make_executor):
    def fail():
        os.write(2, f"{ODD}\n".encode())
        os._exit(3)

    def raise_oddly():
        raise ValueError(ODD)

    executor = make_executor(retries=0)
    crashed = executor.submit(fail).exception(WAIT)
    assert isinstance(crashed, WorkerCrashedError)
    assert not ACTS.search(shown(crashed))
    assert r"\u202eabc\u2066 over" in shown(crashed)  # the end of what it printed, in a note
    raised = executor.submit(raise_oddly).exception(WAIT)
    assert str(raised) == ODD  # the exception is the user's, as it was raised
    assert raised.__cause__
    assert not ACTS.search(str(raised.__cause__))
    assert r"ValueError: \x1b[2J" in str(raised.__cause__)


def test_a_reason_that_comes_from_redis_or_the_api_moves_no_cursor(make_executor, local_redis, tmp_path):
    assert not ACTS.search(str(MachinesError(f"answered 500: {ODD}", 500, ODD)))
    assert not ACTS.search(MachinesError("answered 500", 500, ODD).request_id or "")
    gate = tasks.Gate.make(tmp_path)
    executor = make_executor()
    future = executor.submit(gate.enter)
    gate.wait_for_entry()
    future.kill(WAIT)
    killed = future.exception(WAIT)
    assert isinstance(killed, CallKilledError)
    local_redis.hset(f"fly:{{local}}:call:{future.id}", "outcome", ODD)
    told = make_executor().future(future.id).exception(WAIT)
    assert isinstance(told, CallKilledError)
    assert r"\x1b[2J" in str(told)
    assert not ACTS.search(shown(told))


def test_a_local_machines_lines_are_shown_as_they_are_but_for_what_acts(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", PRINTS], capture_output=True, env={**os.environ, "PYTHONPATH": os.getcwd()}, check=True
    )
    said = ran.stderr.decode()
    assert not ACTS.search(said)
    assert "] written\n" in said  # as a terminal shows a line that was written over
    assert "] \\x1b[3A\\u202ethe second line\twith a tab\n" in said
