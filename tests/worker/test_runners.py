"""Real runner processes, and the tokens by which their worker takes calls back."""

import asyncio
import os
import select
import signal
import subprocess
import sys

import pytest

from flyexecutor import InitializerError, RemoteError, WorkerCrashedError
from flyexecutor.call import ClaimedCall
from flyexecutor.names import name_of
from flyexecutor.payload import pickles
from flyexecutor.payload.trust import WARMUP, Trust
from flyexecutor.retry import Retry
from flyexecutor.terms import UNREAD, new_terms
from flyexecutor.worker.chunks import run_chunk
from flyexecutor.worker.pipe import (
    AGAIN,
    PIPE_BYTES,
    RAISED,
    RETURNED,
    FrameReader,
    Message,
    pack_message,
    write_frames,
)
from flyexecutor.worker.runner_process import GRACE, Answer, Death, RunnerProcess
from tests import tasks

KEY = b"k" * 32
TRUST = Trust(KEY, "app")


@pytest.fixture
def machine_environment(monkeypatch):
    monkeypatch.setenv("FLYEXECUTOR_KEY", KEY.hex())
    monkeypatch.setenv("FLYEXECUTOR_REDIS_URL", "redis://localhost:1")
    monkeypatch.setenv("FLYEXECUTOR_LANE", "lane")
    monkeypatch.setenv("FLY_APP_NAME", "app")
    monkeypatch.setenv("FLY_MACHINE_ID", "m1")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())


@pytest.fixture
def runner(machine_environment):
    runner = RunnerProcess()
    yield runner
    runner.close()


def make_call(fn, *args, sealed=None, manner=None):
    call_id = TRUST.new_call_id()
    sealed = sealed or TRUST.seal_call(
        call_id, new_terms((), result_ttl=60.0), pickles.dump_call(fn, args, {}, manner).body
    )
    return ClaimedCall(call_id, 1, sealed, name=name_of(fn))


def answer_of(runner):
    while not (answers := runner.hear()):
        pass  # each turn blocks in a read
    return answers


def value_of(answer):
    opened = TRUST.open_outcome(answer.call.id, answer.call.attempt, answer.message.body)
    return pickles.load_outcome(opened.encoding, opened.body)


def wait_for_death(runner):
    try:
        runner._process.wait(GRACE + 0.1)
    except subprocess.TimeoutExpired:
        runner.force()  # as the guard does: Python hears a signal that comes just before a read only after it
        runner._process.wait(20)
    assert runner.died()


PROC = {"hidden": "mount -t tmpfs none /proc", "read-only": "mount --bind -o ro /proc /proc"}


@pytest.mark.usefixtures("machine_environment")
@pytest.mark.parametrize("proc", PROC)
def test_a_runner_starts_without_what_linux_alone_has(proc, monkeypatch, tmp_path):
    if subprocess.run("unshare --mount true", shell=True, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("needs Linux, and the right to a mount namespace")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec unshare --mount sh -ec \'{PROC[proc]}; exec "$@"\' sh {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    test_calls_are_answered_in_order(new_runner := RunnerProcess())
    new_runner.close()


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
    assert [answer.message.kind for answer in answer_of(runner)] == [RAISED]
    runner.give(make_call(tasks.increment, 1))
    assert [answer.message.kind for answer in answer_of(runner)] == [RETURNED]


def test_a_payload_that_does_not_verify_is_not_unpickled(runner, tmp_path):
    foreign = Trust(b"x" * 32, "app")
    body = pickles.dump_call(tasks.append_line, (tmp_path / "ran", "x"), {}).body
    runner.give(make_call(None, sealed=foreign.seal_call("c", UNREAD, body)))
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
    assert [answer.message.kind for answer in answer_of(runner)] == [RETURNED]
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


def test_a_death_by_a_signal_without_a_name_is_told_by_its_number():
    """Linux has some thirty real-time signals, of which Python names the first and the last."""
    assert str(Death(-40, "", b"", cut_off=False)) == "signal 40"


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


# What is raised is the outcome

BASE_ERRORS = [
    asyncio.CancelledError("late"),
    GeneratorExit(),
    KeyboardInterrupt(),
    BaseExceptionGroup("some", [KeyboardInterrupt()]),
    tasks.OwnBaseError("own"),
]


def run(runner, fn, *args, manner=None):
    """The answer of a call, and what it said before that."""
    runner.give(make_call(fn, *args, manner=manner))
    news = answer_of(runner)
    while not isinstance(news[-1], Answer):
        news += answer_of(runner)
    return news[-1], news[:-1]


def error_of(runner, fn, *args, manner=None):
    """How a call ends that fails; the process lives, and runs the next one."""
    pid = runner.pid
    answer, _ = run(runner, fn, *args, manner=manner)
    assert value_of(run(runner, os.getpid)[0]).value == pid
    return value_of(answer).exception


@pytest.mark.parametrize("error", BASE_ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_a_call_raises_is_its_outcome(runner, error):
    assert repr(error_of(runner, tasks.raise_, error)) == repr(error)


@pytest.mark.parametrize(
    ("fn", "args", "manner"),
    [
        (tasks.echo, (tasks.Grumpy(tasks.OwnBaseError("own"), "unpickled"),), None),
        (tasks.Grumpy, (tasks.OwnBaseError("own"), "pickled"), None),
        (tasks.yield_and_raise, (tasks.OwnBaseError("own"),), pickles.Manner(streams=True)),
    ],
    ids=["arguments", "result", "items"],
)
def test_what_is_raised_around_a_call_is_its_outcome_too(runner, fn, args, manner):
    assert repr(error_of(runner, fn, *args, manner=manner)) == "OwnBaseError('own')"


def test_whatever_an_initializer_raises_is_told_and_it_is_tried_again(runner):
    manner = pickles.Manner(initializer=pickles.dump_alone((tasks.raise_, (tasks.OwnBaseError("own"),))))
    for _ in range(2):
        error = error_of(runner, tasks.increment, 1, manner=manner)
        assert isinstance(error, InitializerError)
        assert "OwnBaseError: own" in str(error)


def test_whatever_a_warm_up_raises_the_process_lives(runner):
    for warmup in (tasks.raise_odd_error, tasks.Grumpy(tasks.OwnBaseError("own"), "unpickled")):
        dumped = pickles.dump_part(warmup)
        runner.warm_up(TRUST.seal_part(WARMUP, dumped.body, dumped.encoding))
    answer, _ = run(runner, os.getpid)
    assert value_of(answer).value == runner.pid
    assert b"OwnBaseError: own" in answer.logs


def test_whatever_an_item_of_a_chunk_raises_the_others_run(runner):
    errors = [*BASE_ERRORS, SystemExit(3)]
    answer, _ = run(runner, run_chunk, tasks.raise_, [(error,) for error in errors], Retry(), True)
    told = [pickles.load_outcome(one.dumped.encoding, one.dumped.body).exception for one in value_of(answer).value]
    assert [repr(one) for one in told[:-1]] == [repr(error) for error in errors[:-1]]
    assert isinstance(told[-1], WorkerCrashedError)


@pytest.mark.parametrize(
    ("code", "said"),
    [(3, "exit code 3"), (0, "exit code 0"), (None, "exit code 0"), ("done here", "exit code 1: done here")],
)
def test_a_call_that_exits_fails_with_its_code_and_the_process_lives(runner, code, said):
    error = error_of(runner, tasks.exit_with, code)
    assert isinstance(error, WorkerCrashedError)
    assert str(error).endswith(said)
    assert "in exit_with" in str(error.__cause__)


@pytest.mark.parametrize(
    ("fn", "kind"),
    [
        (tasks.raise_number, tasks.NumberError),
        (tasks.raise_in_a_circle, Exception),
        (tasks.raise_untellable, tasks.UntellableError),
        (tasks.raise_odd_error, tasks.OddError),
    ],
)
def test_an_exception_that_pickle_makes_nothing_of_travels_all_the_same(runner, fn, kind):
    error = error_of(runner, fn)
    assert type(error) is kind
    assert f"in {fn.__name__}" in str(error.__cause__)


def test_an_exception_whose_class_can_not_travel_becomes_one_that_tells_of_it(runner):
    error = error_of(runner, tasks.raise_here)
    assert isinstance(error, RemoteError)
    assert str(error).startswith("HereError: here")
    assert "in raise_here" in str(error.__cause__)


def test_an_exception_whose_traceback_can_not_be_formatted_is_told_all_the_same(runner):
    error = error_of(runner, tasks.raise_without_traceback)
    assert isinstance(error, SyntaxError)
    assert "its traceback can't be told" in str(error.__cause__)


def test_an_initializer_that_forks_runs_the_call_once(runner, tmp_path):
    manner = pickles.Manner(initializer=pickles.dump_alone((tasks.fork_and, ("return",))))
    answer, _ = run(runner, tasks.append_line, tmp_path / "runs", "run", manner=manner)
    assert value_of(answer).exception is None
    assert (tmp_path / "runs").read_text() == "run\n"


def test_a_call_that_is_stopped_ends_its_process_whatever_it_makes_of_that(runner, tmp_path):
    gate = tasks.Gate.make(tmp_path)
    runner.give(make_call(tasks.hang_and_turn_into, BaseExceptionGroup("some", [KeyboardInterrupt()]), gate))
    gate.wait_for_entry()
    runner.stop("timeout")
    wait_for_death(runner)
    assert str(runner.death()) == "signal SIGTERM"


# What is printed


@pytest.mark.parametrize("how", ["close", "none", "descriptors", "hasty", "dumb"])
def test_a_call_that_spoils_its_output_keeps_its_result_and_later_calls_can_print(runner, how):
    assert value_of(run(runner, tasks.spoil_output, how)[0]).exception is None
    answer, _ = run(runner, tasks.print_twice, "later")
    assert value_of(answer).exception is None
    assert answer.logs == b"later\nlater\n"
    assert value_of(run(runner, os.get_blocking, 1)[0]).value


def test_a_call_that_spoils_its_output_and_raises_is_tried_again(runner):
    manner = pickles.Manner(retry=Retry(attempts=2))
    answer, _ = run(runner, tasks.spoil_output_and_raise, "close", manner=manner)
    assert answer.message.kind == AGAIN


# What the machine's log has


def test_a_call_that_raises_is_a_line_in_the_machines_log_with_its_traceback_and_nothing_in_its_own(runner, capfd):
    answer, _ = run(runner, tasks.raise_value_error, "no")
    line, *traceback = capfd.readouterr().err.splitlines()
    assert line == f"flyexecutor: call {answer.call.id} (raise_value_error), attempt 1, raised ValueError: no"
    assert traceback[0] == "Traceback (most recent call last):"
    assert "in raise_value_error" in "".join(traceback)
    assert answer.logs == b""
    assert run(runner, tasks.print_twice, "later")[0].logs == b"later\nlater\n"


def test_whatever_a_call_raises_is_in_the_machines_log(runner, capfd):
    large = pickles.Manner(max_payload=1000)
    initializer = pickles.Manner(initializer=pickles.dump_alone((tasks.fail_to_initialize, ())))
    for fn, args, manner, said in [
        (tasks.raise_odd_error, (), None, "OddError: 1 and 2"),
        (tasks.raise_here, (), None, "HereError: here"),
        (tasks.raise_untellable, (), None, "UntellableError: (its str() raised OwnBaseError)"),
        (tasks.raise_without_traceback, (), None, "SyntaxError: wrong (file, line 1)"),
        (tasks.exit_with, (3,), None, "SystemExit: 3"),
        (tasks.raise_, (KeyboardInterrupt(),), None, "KeyboardInterrupt: "),
        (tasks.return_unpicklable, (), None, "TypeError: this object stays here"),
        (bytes, (1001,), large, "PayloadTooLargeError: the result is"),
        (tasks.raise_much, (1001,), large, "ValueError: much"),
        (tasks.fail_after, (2,), pickles.Manner(streams=True), "ValueError: no more"),
        (
            tasks.raise_value_error,
            ("no",),
            pickles.Manner(retry=Retry(attempts=2)),
            "ValueError: no; it is tried again",
        ),
        (tasks.spoil_output_and_raise, ("close",), None, "ValueError: no"),
        (tasks.echo, (tasks.Poisoned(),), None, "RuntimeError: this does not load"),
        (tasks.increment, (1,), initializer, "InitializerError: the initializer raised OSError: no such disk"),
    ]:
        answer, _ = run(runner, fn, *args, manner=manner)
        text = capfd.readouterr().err
        assert text.startswith(f"flyexecutor: call {answer.call.id} ({name_of(fn)}), attempt 1, raised {said}")
        assert len(text.splitlines()) > 1
        assert KEY.hex() not in text
        assert run(runner, tasks.print_twice, "later")[0].logs == b"later\nlater\n"
        capfd.readouterr()


def test_a_payload_that_is_refused_is_in_the_machines_log(runner, capfd):
    runner.give(make_call(None, sealed=b"x" * 100))
    (answer,) = answer_of(runner)
    assert f"call {answer.call.id}" in (text := capfd.readouterr().err)
    assert "raised PayloadError: " in text


def test_each_item_that_raises_is_in_the_machines_log(runner, capfd):
    answer, _ = run(runner, run_chunk, tasks.fail_on, [(n, n) for n in range(100)], Retry(), True)
    text = capfd.readouterr().err
    for n in range(100):
        assert f"attempt 1, raised ValueError: {n} is bad, item {n} of 100 in this call\n" in text
    assert text.count("in fail_on") > 1
    assert (answer.message.kind, answer.logs) == (RETURNED, b"")
    call = make_call(run_chunk, tasks.fail_on, [(n, n) for n in range(5_000)], Retry(), True)
    runner.give(call)
    while runner.given:  # as a worker does
        for fd in select.select([runner.output.fd, runner.fileno()], [], [])[0]:
            runner.output.read() if fd == runner.output.fd else runner.hear()
    text = capfd.readouterr().err
    assert text.count("raised ValueError") == 5_000
    assert text.count("in fail_on") < 1000


def test_what_the_machines_log_has_of_an_exception_is_bounded_and_has_its_end(runner, capfd):
    run(runner, tasks.raise_much, 10_000_000)
    text = capfd.readouterr().err
    assert len(text) < 10_000
    assert "in raise_much" in text
    assert text.endswith("much \n")


# Nobody is there to type


def test_a_call_that_wants_a_person_to_type_is_told_that_nobody_can(runner):
    for how in ("input", "line", "pdb", "breakpoint"):
        error = error_of(runner, tasks.ask, how)
        assert type(error) is RuntimeError, how
        assert "nobody can type" in str(error)
        assert "ThreadPoolExecutor" in str(error)
        assert error_of(runner, tasks.raise_value_error, "no").args == ("no",)  # nothing traces what comes later


def test_a_debugger_of_ones_own_is_left_to_do_its_work(runner):
    for hook in ("0", "builtins.print"):
        run(runner, tasks.set_environment, "PYTHONBREAKPOINT", hook)
        assert value_of(run(runner, tasks.ask, "breakpoint")[0]).value == "went on"


# A call that forks


@pytest.mark.parametrize(("end", "code"), [("return", 0), ("raise", 1), ("exit", 7), ("terminate", -signal.SIGTERM)])
def test_of_a_call_that_forks_only_the_runner_answers(runner, end, code):
    answer, said = run(runner, tasks.fork_and, end)
    assert (value_of(answer).value, said) == (code, [])
    assert (b"ValueError: in the child" in answer.logs) == (end == "raise")
    assert value_of(run(runner, tasks.increment, 1)[0]).value == 2
    runner.stop("timeout")
    wait_for_death(runner)
    assert "in fork_and" not in runner.death().faults  # which tell where the runner was, not an earlier child


def test_of_a_generator_that_forks_only_the_items_of_the_runner_come(runner):
    answer, said = run(runner, tasks.fork_in_stream, manner=pickles.Manner(streams=True))
    assert (value_of(answer).value, [message.number for message in said]) == (3, [0, 1, 2])
    assert value_of(run(runner, tasks.increment, 1)[0]).value == 2


def test_a_pool_that_outlives_its_call_disturbs_no_later_one(runner):
    assert value_of(run(runner, tasks.fork_a_pool)[0]).value == [1, 2, 3]
    assert value_of(run(runner, tasks.end_the_pool)[0]).exception is None
    assert value_of(run(runner, tasks.increment, 1)[0]).value == 2


def test_a_process_of_a_call_that_is_terminated_at_its_birth_ends(runner):
    # Else a pool that is terminated waits for it for ever.
    assert value_of(run(runner, tasks.end_children_at_their_birth, 100)[0]).value == 100


def test_an_answer_that_is_not_for_the_call_at_the_head_is_passed_over(runner, tmp_path, caplog):
    gate = tasks.Gate.make(tmp_path)
    messages, messages_in = os.pipe()
    runner._reader, old = FrameReader(messages), runner._reader
    runner.give(make_call(gate.enter))
    write_frames(messages_in, [pack_message(Message(RETURNED, TRUST.new_call_id(), 1))])
    assert runner.hear() == []
    assert len(runner.given) == 1
    assert "answer" in caplog.text
    runner._reader = old
    os.close(messages), os.close(messages_in)
    gate.wait_for_entry()
    gate.open()
    assert [answer.message.kind for answer in answer_of(runner)] == [RETURNED]
