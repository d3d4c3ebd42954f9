"""How calls end, in words for the store."""

import signal

import pytest

from flyexecutor import CallTimeoutError, WorkerCrashedError
from flyexecutor.call import Outcome
from flyexecutor.payload import plain
from flyexecutor.payload.trust import Trust
from flyexecutor.states import State
from flyexecutor.terms import UNREAD
from flyexecutor.worker.outcomes import Outcomes, Outgrown, Retried
from flyexecutor.worker.pipe import AGAIN, RAISED, REFUSED, RETURNED, Message
from flyexecutor.worker.runner_process import KILLED, TIMED_OUT, Answer, Death
from tests.worker.fakes import make_call

TRUST = Trust(b"k" * 32, "app")


@pytest.fixture
def outcomes():
    return Outcomes(TRUST, "m1", "iad")


def answer(call, kind, **rest):
    return Answer(call, Message(kind, call.id, call.attempt, body=b"sealed", **rest), b"logs")


def death(code, *, stopping=None, cut_off=False):
    return Death(code, "faults", b"logs", cut_off, stopping)


def error_in(outcome):
    return plain.load(TRUST.open_outcome(outcome.id, outcome.attempt, outcome.sealed).body)


@pytest.mark.parametrize(
    ("kind", "state", "opened"),
    [(RETURNED, State.SUCCEEDED, True), (RAISED, State.FAILED, True), (REFUSED, State.FAILED, False)],
)
def test_an_answer_is_an_outcome_as_its_runner_sealed_it(outcomes, kind, state, opened):
    call = make_call("a")
    nonce = call.terms.nonce if opened else b""  # what no runner could open ends no call of that nonce
    assert outcomes.answered(answer(call, kind)) == Outcome(
        call.id, call.attempt, state, "m1", "iad", b"sealed", b"logs", nonce=nonce
    )


def test_a_call_whose_terms_nobody_could_read_ends_without_a_nonce(outcomes):
    call = make_call("a", terms=UNREAD)
    assert outcomes.answered(answer(call, RETURNED)).nonce == b""


@pytest.mark.parametrize(("raised", "longest"), [(0, 2.0), (1, 4.0), (3, 16.0), (4, 20.0), (100_000, 20.0)])
def test_the_pause_before_a_retry_doubles_and_at_least_half_of_it_is_waited(outcomes, raised, longest):
    call = make_call("a", raised=raised)
    for _ in range(100):
        ending = outcomes.answered(answer(call, AGAIN, seconds=2.0, longest=20.0))
        assert isinstance(ending, Retried)
        assert ending.call is call
        assert longest / 2 <= ending.wait <= longest


def test_a_call_that_ends_its_process_has_crashed_its_worker(outcomes):
    outcome = outcomes.died(make_call("a"), death(3))
    crash = error_in(outcome)
    assert (outcome.state, outcome.logs) == (State.FAILED, b"logs")
    assert type(crash.error) is WorkerCrashedError
    assert "exit code 3 (machine m1)" in str(crash.error)
    assert crash.traceback == "faults"


def test_a_call_whose_process_the_kernel_has_killed_has_outgrown_its_machine(outcomes, caplog):
    call = make_call("a")
    ending = outcomes.died(call, death(-signal.SIGKILL))
    assert ending == Outgrown(call, ending.reason, b"logs")
    assert "signal SIGKILL" in ending.reason
    assert ending.reason in caplog.text


def test_a_process_that_we_have_killed_was_not_out_of_memory(outcomes):
    call = make_call("a", timeout=2.0)
    for how, kind in (
        ({"cut_off": True}, WorkerCrashedError),
        ({"stopping": TIMED_OUT}, CallTimeoutError),
    ):
        assert type(error_in(outcomes.died(call, death(-signal.SIGKILL, **how))).error) is kind
    killed = outcomes.died(call, death(-signal.SIGKILL, stopping=KILLED))
    assert (killed.state, killed.sealed, killed.logs) == (State.KILLED, b"killed by signal SIGKILL", b"logs")


def test_a_call_over_its_timeout_is_told_which_that_was(outcomes):
    assert "timeout of 2 s" in str(
        error_in(outcomes.died(make_call("a", timeout=2.0), death(143, stopping=TIMED_OUT))).error
    )


def test_a_call_that_is_killed_before_it_began_has_ended_no_call_of_its_nonce(outcomes):
    outcome = outcomes.killed(make_call("a"), None)
    assert (outcome.state, outcome.sealed, outcome.logs, outcome.nonce) == (
        State.KILLED,
        b"killed before it began",
        b"",
        b"",
    )
