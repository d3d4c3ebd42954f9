"""Who gets which call: in virtual time, with runners that have no process."""

import os
import signal
import subprocess

import pytest

from flyexecutor.errors import WorkerCrashedError
from flyexecutor.worker.crew import (
    AHEAD_CALLS,
    AHEAD_SECONDS,
    BAD_STARTS,
    START_PAUSE,
    TAKE_BACK_AFTER,
    Crew,
    Interrupted,
)
from flyexecutor.worker.pipe import NESTED, PROGRESS, WARM, WARMED
from flyexecutor.worker.runner_process import Answer
from tests.worker.fakes import FakeProcess, make_call, open_files


@pytest.fixture
def make(start_runner, clock):
    made = []

    def make(number, **options):
        made.append(Crew([start_runner() for _ in range(number)], **options))
        return made[-1]

    yield make
    for crew in made:
        crew.close()


def given(crew):
    return [[call.id.rstrip(".") for call in runner.given] for runner in crew.runners]


def waiting(crew):
    return [call.id.rstrip(".") for call in crew.claimed]


def take(crew, names):
    calls = [make_call(name) for name in names]
    crew.take(calls)
    return calls


def answer_quickly(crew, seconds=0.0001, times=40):
    """Have the first runner answer short calls, until the crew has learnt how short they are."""
    runner = crew.runners[0]
    for n in range(times):
        call = make_call(f"quick{n}")
        runner.give(call)
        runner._process.answer(call, seconds=seconds)
        crew.hear(runner)


# Give


def test_at_first_each_runner_gets_one_call_and_the_rest_waits(make):
    crew = make(2)
    assert (crew.idle, crew.busy, crew.free, crew.room) == (True, False, 2, 2)
    take(crew, "a")
    assert (crew.idle, crew.busy, crew.free, crew.room) == (False, True, 1, 1)
    take(crew, "b")
    assert (crew.free, crew.room) == (0, 0)
    take(crew, "c")
    assert (given(crew), waiting(crew)) == ([["a"], ["b"]], ["c"])
    assert (crew.free, crew.room) == (0, 0)
    assert [name[0] for name in crew.held()] == ["a", "b", "c"]


def test_a_call_that_only_waits_is_work(make):
    crew = make(0)
    take(crew, "a")
    assert (crew.idle, crew.busy, crew.free) == (False, False, 0)


def test_while_calls_are_short_a_runner_gets_as_many_as_take_a_while(make):
    crew = make(2)
    answer_quickly(crew, AHEAD_SECONDS / 10.5)
    assert crew.room == 2 * 10
    answer_quickly(crew, AHEAD_SECONDS / 1e6)
    assert crew.room == 2 * AHEAD_CALLS
    take(crew, "abcde")
    assert given(crew) == [["a", "c", "e"], ["b", "d"]]


def test_one_long_call_among_short_ones_ends_the_hurry(make):
    crew = make(1)
    answer_quickly(crew)
    answer_quickly(crew, 1.0, times=1)
    assert crew.room == 1


def test_a_runner_that_is_stopped_waits_for_its_calls_or_warms_up_gets_none(make):
    crew = make(3, warmup=b"w")
    stopped, nested, warming = crew.runners
    _, other = take(crew, "ab")
    stopped._process.begin()
    stopped.stop("timeout")
    nested._process.begin()
    nested._process.say(NESTED, other, number=1)
    crew.hear(nested)
    warming.warm_up(b"w")
    crew.take([make_call("c")])
    assert (waiting(crew), crew.room, crew.free) == (["c"], 0, 0)
    assert [frame.kind for frame in warming._process.read()] == [WARM]
    warming._process.say(WARMED)
    crew.hear(warming)
    crew.give()
    assert given(crew)[2] == ["c"]


def test_a_runner_whose_pipe_is_full_gets_no_further_call(make):
    crew = make(1)
    answer_quickly(crew)
    crew.take([make_call("a"), make_call("large", sealed=bytes(64 * 1024)), make_call("c")])
    assert (given(crew), waiting(crew)) == ([["a"]], ["large", "c"])


# Take back


def test_calls_that_wait_behind_a_long_one_are_taken_back_after_a_while_and_no_sooner(make, clock):
    crew = make(1)
    answer_quickly(crew)
    take(crew, "abc")
    crew.runners[0]._process.begin()
    assert list(crew.due()) == [clock.now + TAKE_BACK_AFTER]
    clock.advance(TAKE_BACK_AFTER - 0.001)
    assert not crew.take_back_late()
    clock.advance(0.001)
    assert crew.take_back_late()
    assert (given(crew), waiting(crew)) == ([["a"]], ["b", "c"])
    assert crew.room == 0  # one call at a time again, and two are there


def test_the_calls_of_a_runner_that_answers_are_left_to_it(make, clock):
    crew = make(1)
    answer_quickly(crew)
    first, *_ = take(crew, "abc")
    clock.advance(TAKE_BACK_AFTER)
    crew.runners[0]._process.answer(first)
    crew.hear(crew.runners[0])
    assert not crew.take_back_late()
    assert list(crew.due()) == [clock.now + TAKE_BACK_AFTER]


def test_a_lone_call_is_not_taken_back_unless_another_waits_for_its_runner(make, clock):
    crew = make(1)
    take(crew, "a")
    crew.runners[0]._process.begin()
    clock.advance(TAKE_BACK_AFTER)
    assert not crew.take_back_late()
    assert list(crew.due()) == []
    take(crew, "b")
    assert crew.take_back_late()
    assert waiting(crew) == ["b"]


def test_a_call_that_begins_while_it_is_taken_back_stays(make):
    crew = make(1)
    answer_quickly(crew)
    first, *_ = take(crew, "abc")
    crew.runners[0]._process.answer(first)
    crew.runners[0]._process.begin()
    crew.stop()
    assert (given(crew), waiting(crew)) == ([["a", "b"]], ["c"])


# Deaths


def test_of_a_runner_that_dies_one_call_was_interrupted_and_the_others_are_first_in_line(make):
    crew = make(1)
    answer_quickly(crew)
    begun, *_ = take(crew, "abc")
    crew.claimed.extend([make_call("d")])
    dead = crew.runners[0]
    dead._process.begin()
    dead._process.die(-signal.SIGSEGV)
    news = crew.replace_dead()
    assert news == [Interrupted(begun, news[0].death)]
    assert str(news[0].death) == "signal SIGSEGV"
    assert waiting(crew) == ["b", "c", "d"]
    assert crew.runners[0] is not dead
    assert not crew.runners[0].given


def test_what_a_runner_said_before_it_died_is_heard(make):
    crew = make(1)
    answer_quickly(crew)
    answered, begun = take(crew, "ab")
    process = crew.runners[0]._process
    process.answer(answered, seconds=1.0)
    process.begin()
    process.say(PROGRESS, begun, body=b"half")
    process.die(3)
    answer, progress, interrupted = crew.replace_dead()
    assert isinstance(answer, Answer)
    assert answer.call == answered
    assert progress.body == b"half"
    assert interrupted.call == begun
    assert str(interrupted.death) == "exit code 3"
    assert crew.room == 1  # that call was long


def test_the_living_are_left_alone(make):
    crew = make(2)
    take(crew, "ab")
    runners = list(crew.runners)
    runners[1]._process.begin()
    runners[1]._process.die(1)
    crew.replace_dead()
    assert crew.runners[0] is runners[0]
    assert given(crew) == [["a"], []]
    assert crew.replace_dead() == []


def test_runners_that_end_before_their_first_call_end_the_worker(make):
    crew = make(1)
    before = open_files()
    for _ in range(BAD_STARTS - 1):
        crew.runners[0]._process.die(1)
        assert crew.replace_dead() == []
    assert open_files() == before
    crew.runners[0]._process.die(127)
    with pytest.raises(WorkerCrashedError, match="exit code 127"):
        crew.replace_dead()


def test_bad_starts_are_counted_anew_after_an_answer(make):
    crew = make(2)
    for _ in range(BAD_STARTS):
        crew.runners[1]._process.die(1)
        crew.replace_dead()
        answer_quickly(crew, times=1)


def test_a_runner_that_has_answered_and_dies_with_nothing_to_do_is_no_bad_start(make):
    crew = make(1)
    for _ in range(BAD_STARTS + 1):
        answer_quickly(crew, times=1)
        crew._bad_starts = BAD_STARTS - 1
        crew.runners[0]._process.die(0)
        crew.replace_dead()


def test_a_runner_whose_pipe_is_closed_and_that_lives_is_ended(make):
    crew = make(1)
    (call,) = take(crew, "a")
    process = crew.runners[0]._process
    process.begin()
    process.close_pipe()
    assert crew.hear(crew.runners[0]) == []
    assert process.signals == [signal.SIGKILL]
    (interrupted,) = crew.replace_dead()
    assert "closed the pipe" in str(interrupted.death)
    assert interrupted.call == call


def test_an_answer_counts_though_user_code_has_written_into_the_pipe_behind_it(make):
    crew = make(1)
    (call,) = take(crew, "a")
    process = crew.runners[0]._process
    process.answer(call)
    os.write(process._messages, b"no frame of ours")
    (news,) = crew.hear(crew.runners[0])
    assert (news.call, process.code) == (call, -signal.SIGKILL)
    assert crew.replace_dead() == []


def test_when_it_is_closed_its_runners_end(make):
    crew = make(2)
    take(crew, "a")
    runners, crew.runners = crew.runners, []
    Crew(runners).close()
    assert all(runner.died() for runner in runners)


# Nested calls


def test_a_call_that_waits_for_calls_gets_a_runner_beside_it_until_it_goes_on(make):
    crew = make(1)
    outer, inner = make_call("outer"), make_call("inner")
    crew.take([outer, inner])
    runner = crew.runners[0]
    runner._process.begin()
    runner._process.say(NESTED, outer, number=1)
    crew.hear(runner)
    crew.make_room_for_nested()
    crew.give()
    assert given(crew) == [["outer"], ["inner"]]
    further = crew.runners[1]
    runner._process.say(NESTED, outer, number=0)
    crew.hear(runner)
    crew.make_room_for_nested()
    assert len(crew.runners) == 2  # it is at work
    further._process.answer(inner)
    crew.hear(further)
    crew.make_room_for_nested()
    assert crew.runners == [runner]
    assert further.died()


def test_a_worker_that_stops_starts_no_further_runner(make):
    crew = make(1)
    (outer,) = take(crew, ["outer"])
    runner = crew.runners[0]
    runner._process.begin()
    runner._process.say(NESTED, outer, number=1)
    crew.hear(runner)
    crew.stop()
    crew.make_room_for_nested()
    assert crew.runners == [runner]


def test_no_more_runners_end_than_are_spare(make):
    crew = make(3)
    crew.concurrency = 2
    crew.make_room_for_nested()
    assert len(crew.runners) == 2


# Warm up


def test_all_runners_warm_up_once(make):
    crew = make(2, warmup=b"w")
    assert crew.warm_up()
    for runner in crew.runners:
        assert [(frame.kind, frame.sealed) for frame in runner._process.read()] == [(WARM, b"w")]
    assert not crew.idle
    for runner in crew.runners:
        runner._process.say(WARMED)
        crew.hear(runner)
    assert crew.idle
    assert not crew.warm_up()
    assert crew.idle


def test_without_a_warmup_there_is_nothing_to_do(make):
    crew = make(1)
    assert not crew.warm_up()
    assert crew.idle


# No process can be had


@pytest.fixture
def full(monkeypatch):
    """A computer that has no room for one more process."""

    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    def set_full(is_full=True):
        monkeypatch.setattr(subprocess, "Popen", refuse if is_full else FakeProcess)

    return set_full


def test_a_runner_that_can_not_be_replaced_now_is_replaced_later_and_the_others_work_on(make, full, clock, caplog):
    crew = make(3)
    take(crew, "abc")
    before = open_files()
    full()
    for runner in (crew.runners[0], crew.runners[1]):
        runner._process.begin()
        runner._process.die(1)
    assert [news.call.id.rstrip(".") for news in crew.replace_dead()] == ["a", "b"]
    assert given(crew) == [["c"]]
    assert "no runner could be started, trying again" in caplog.text
    crew.make_room_for_nested()  # not so soon again
    assert len(caplog.records) == 1
    assert [*crew.due()] == [clock.now + START_PAUSE]
    clock.advance(START_PAUSE)
    full(False)
    crew.make_room_for_nested()
    assert len(crew.runners) == 3
    assert [*crew.due()] == []
    assert open_files() == before


def test_a_worker_that_gets_no_runner_for_long_ends(make, full, clock):
    crew = make(1)
    take(crew, "a")
    full()
    crew.runners[0]._process.begin()
    crew.runners[0]._process.die(1)
    crew.replace_dead()
    for _ in range(BAD_STARTS - 2):
        clock.advance(START_PAUSE)
        crew.make_room_for_nested()
    clock.advance(START_PAUSE)
    with pytest.raises(WorkerCrashedError, match=r"no runner can be started \(.*unavailable.*\)"):
        crew.make_room_for_nested()


def test_no_further_runner_for_nested_calls_costs_only_time(make, full, clock):
    crew = make(1)
    take(crew, "a")
    crew.runners[0].nested = 1
    full()
    for _ in range(BAD_STARTS + 1):
        crew.make_room_for_nested()
        clock.advance(START_PAUSE)
    full(False)
    crew.make_room_for_nested()
    assert len(crew.runners) == 2


def test_a_process_that_can_not_be_had_leaves_no_pipe_open(full, start_runner):
    before = open_files()
    full()
    with pytest.raises(BlockingIOError):
        start_runner()
    assert open_files() == before
