"""Real runner processes, and the tokens by which their worker takes calls back."""

import os
import select
import signal

import pytest

from flyexecutor import payload
from flyexecutor.call import ClaimedCall
from flyexecutor.trust import KEY_VARIABLE, Trust
from flyexecutor.worker.pipe import PIPE_BYTES, RAISED, RETURNED
from flyexecutor.worker.runners import Runner
from tests import tasks

TRUST = Trust(b"k" * 32, "app")


@pytest.fixture
def runner(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, TRUST.exported)
    monkeypatch.setenv("FLY_APP_NAME", "app")
    monkeypatch.setenv("FLY_MACHINE_ID", "m1")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    runner = Runner()
    yield runner
    runner.close()


def make_call(fn, *args, sealed=None):
    call_id = TRUST.new_call_id()
    return ClaimedCall(call_id, 1, sealed or TRUST.seal_call(call_id, payload.dump_call(fn, args, {}).body))


def answer_of(runner):
    while not (answers := runner.hear()):
        pass  # each turn blocks in a read
    return answers


def value_of(answer):
    opened = TRUST.open_outcome(answer.call.id, answer.call.attempt, answer.told.body)
    return payload.load_outcome(opened.encoding, opened.body)


def wait_for_death(runner):
    handle = os.pidfd_open(runner.pid)
    assert select.select([handle], [], [], 20)[0]
    os.close(handle)
    assert runner.died()


def test_calls_are_answered_in_order(runner):
    calls = [make_call(tasks.increment, n) for n in range(5)]
    for call in calls:
        runner.give(call)
    answers = []
    while len(answers) < 5:
        answers += answer_of(runner)
    assert [answer.call.id for answer in answers] == [call.id for call in calls]
    assert [value_of(answer).value for answer in answers] == [1, 2, 3, 4, 5]
    assert not runner.given


def test_an_exception_is_an_answer_and_the_next_call_runs(runner):
    runner.give(make_call(tasks.raise_value_error, "x"))
    assert [answer.told.kind for answer in answer_of(runner)] == [RAISED]
    runner.give(make_call(tasks.increment, 1))
    assert [answer.told.kind for answer in answer_of(runner)] == [RETURNED]


def test_a_payload_that_does_not_verify_is_not_unpickled(runner, tmp_path):
    foreign = Trust(b"x" * 32, "app")
    body = payload.dump_call(tasks.append_line, (tmp_path / "ran", "x"), {}).body
    runner.give(make_call(None, sealed=foreign.seal_call("c", body)))
    (answer,) = answer_of(runner)
    assert type(value_of(answer).exception).__name__ == "PayloadError"
    assert not (tmp_path / "ran").exists()


def test_what_was_not_begun_can_be_taken_back_and_does_not_run(runner, tmp_path):
    gate = tasks.Gate.make(tmp_path)
    runner.give(make_call(gate.enter))
    behind = [make_call(tasks.append_line, tmp_path / "ran", str(n)) for n in range(3)]
    for call in behind:
        runner.give(call)
    gate.wait_for_entry()
    assert runner.take_back() == behind
    assert not runner.can_take(behind[0])  # until it has answered those
    gate.open()
    assert [answer.told.kind for answer in answer_of(runner)] == [RETURNED]
    while not runner.can_take(behind[0]):
        runner.hear()
    runner.give(make_call(tasks.increment, 1))
    assert value_of(answer_of(runner)[0]).value == 2
    assert not (tmp_path / "ran").exists()


def test_after_a_crash_the_tokens_tell_what_had_begun(runner, tmp_path, monkeypatch):
    gate = tasks.Gate.make(tmp_path)
    begun, *behind = calls = [make_call(gate.enter), make_call(tasks.increment, 1), make_call(tasks.increment, 2)]
    for call in calls:
        runner.give(call)
    gate.wait_for_entry()
    os.kill(runner.pid, signal.SIGSEGV)
    wait_for_death(runner)
    death = runner.death()
    assert str(death) == "signal SIGSEGV"
    assert "in enter" in death.faults
    assert runner.bury() == (begun, behind)
    monkeypatch.setattr(runner, "close", lambda: None)  # bury has closed it


def test_a_runner_ends_when_its_worker_is_gone(runner):
    runner.give(make_call(tasks.increment, 1))
    answer_of(runner)
    os.close(runner._given)
    wait_for_death(runner)
    assert str(runner.death()) == "exit code 0"
    runner._given = os.open(os.devnull, os.O_WRONLY)


def test_a_runner_at_work_is_not_given_more_than_its_pipe_holds(runner, tmp_path):
    gate = tasks.Gate.make(tmp_path)
    large = make_call(tasks.echo, bytes(PIPE_BYTES))
    assert runner.can_take(large)
    runner.give(make_call(gate.enter))
    assert not runner.can_take(large)
    gate.wait_for_entry()
    gate.open()
    answer_of(runner)
    assert runner.can_take(large)
