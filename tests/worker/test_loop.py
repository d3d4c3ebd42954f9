"""The worker's loop, by itself: what it waits for, for how long, and what follows; most of it in virtual time."""

import faulthandler
import itertools
import signal
import time

import pytest

from flyexecutor import PayloadError, RedisUnavailableError
from flyexecutor.environment import Idle
from flyexecutor.payload.trust import Trust
from flyexecutor.store.calls import Claimed, Stay
from flyexecutor.worker import power
from flyexecutor.worker.life import DRAIN_SECONDS, Stage
from flyexecutor.worker.loop import DAMAGE_PAUSE, LONGEST_PAUSE, OUTAGE, OUTAGE_WITH_OUTCOMES, WAKE_PATIENCE, Worker
from flyexecutor.worker.membership import LEAVE_AGAIN
from tests.worker.fakes import RecordedInbox, RecordedStore, make_call

TRUST = Trust(b"k" * 32, "tested")
AWAY = RedisUnavailableError("away")
ENOUGH = 1000  # waits: something goes round in circles


def make_worker(runners=(), **options):
    usual = {"redis_url": "redis://unused", "idle_timeout": 1.0, "max_lifetime": 60.0, "idle": Idle.SUSPEND}
    usual |= {"app": "tested", "trust": TRUST, "machine_id": "m1", "region": "", "lane": "lane", "scheduled": ""}
    return Worker(list(runners), warmup=options.pop("warmup", b""), **usual | options)


@pytest.fixture
def in_this_process(monkeypatch):
    """Whose signals and watchdog a worker leaves alone."""
    for module, name in ((signal, "signal"), (signal, "set_wakeup_fd"), (faulthandler, "dump_traceback_later")):
        monkeypatch.setattr(module, name, lambda *_, **__: None)


@pytest.fixture
def worker(redis_url, in_this_process):
    worker = make_worker(redis_url=redis_url)
    yield worker
    worker._signals._out.close()
    worker._signals._in.close()


def test_the_patience_after_a_suspension_counts_no_pause_that_was_cut_short(worker, monkeypatch):
    def not_started():
        worker._signals._in.send(bytes([signal.SIGCHLD]))  # a child has died: the wait that follows ends at once
        return False

    monkeypatch.setattr(worker._membership, "join_if_started", not_started)
    began = time.monotonic()
    assert worker._wakes(0.3) is False
    assert time.monotonic() - began >= 0.3


# In virtual time: a step of the test happens in each wait that it does not end itself


@pytest.fixture
def make(in_this_process, monkeypatch, clock, start_runner):
    made = []

    def make(*steps, number=1, answers=None, **options):
        """A worker and its store. steps: what happens in its waits, one after the other; None: time passes."""
        store = RecordedStore(
            **{"inbox": [RecordedInbox()], "report": [0], "claim": [Claimed((), number)]}
            | {"finish": [Claimed((), number)]}
            | (answers or {})
        )
        monkeypatch.setattr("flyexecutor.worker.loop.Store", lambda *_: store)
        worker = make_worker([start_runner() for _ in range(number)], **options)
        following, waits = iter(steps), itertools.count()

        def wait(seconds):
            assert next(waits) < ENOUGH
            if step := next(following, None):
                step(worker)
                return
            inbox = worker._inbox
            clock.now = min([clock.now + seconds, *([inbox.ends_at] if inbox.waiting else [])])
            if inbox.waiting and clock.now >= inbox.ends_at:
                worker._receive()

        monkeypatch.setattr(worker, "_wait", wait)
        made.append(worker)
        return worker, store

    yield make
    for worker in made:
        worker._signals._out.close()
        worker._signals._in.close()


def hand(*calls):
    """Calls come by the inbox."""

    def step(worker):
        worker._inbox.calls = list(calls)
        worker._receive()

    return step


def begin(worker):
    """The first runner begins its call."""
    worker._crew.runners[0]._process.begin()


def answer(worker):
    """The first runner answers the call that it has."""
    runner = worker._crew.runners[0]
    runner._process.answer(runner.given[0])
    worker._collect(runner)


def terminate(worker):
    """SIGTERM comes."""
    worker._signals._in.send(bytes([signal.SIGCHLD, signal.SIGTERM]))
    worker._notice_signals()


def ids(calls):
    return [call.id for call in calls]


def test_a_worker_without_work_leaves_and_ends(make, clock):
    worker, store = make(idle=Idle.STOP)
    began = clock.now
    assert worker.run() == 0
    assert store.verbs()[-4:] == ["join", "run_of_server", "claim", "leave"]
    assert clock.now == began + LEAVE_AGAIN
    assert worker._crew.runners[0].died()
    assert worker._life.stage is Stage.ENDED


def test_a_worker_that_is_needed_stays_and_runs_what_comes(make):
    call = make_call("a")
    worker, store = make(
        None, hand(call), begin, answer, idle=Idle.STOP, answers={"leave": [Stay(5.0, "needed"), None]}
    )
    assert worker.run() == 0
    verbs = [verb for verb in store.verbs() if verb in {"leave", "claim", "finish"}]
    assert verbs == ["claim", "leave", "claim", "finish", "leave"]
    assert ids(store.last("finish")["outcomes"]) == [call.id]


def test_runners_warm_up_before_the_first_rest_and_nothing_is_left_meanwhile(make, monkeypatch):
    monkeypatch.setattr(power, "suspend", lambda *_: False)

    def warm(worker):
        assert [frame.sealed for frame in worker._crew.runners[0]._process.read()] == [b"w"]
        assert "leave" not in store.verbs()
        worker._crew.runners[0].warming = False

    worker, store = make(None, warm, warmup=b"w", answers={"join_if_started": [False]})
    assert worker.run() == 0
    assert "leave" in store.verbs()


def test_a_worker_that_is_never_suspended_does_not_warm_up_for_that(make):
    worker, store = make(warmup=b"w", idle=Idle.STOP)
    assert worker.run() == 0
    assert "leave" in store.verbs()


# Stop


def test_on_sigterm_what_runs_is_finished_and_what_waits_is_handed_back(make):
    runs, waits = make_call("a"), make_call("b")
    worker, store = make(hand(runs, waits), begin, terminate, answer)
    assert worker.run() == 0
    assert ids(store.last("hand_back")["calls"]) == [waits.id]
    assert (ids(store.last("finish")["outcomes"]), store.last("finish")["intake"].more) == ([runs.id], 0)
    assert (store.last("leave")["must"], store.last("leave")["reason"]) == (True, "")
    assert store.verbs()[-1] == "leave"


def test_what_could_not_be_handed_back_on_sigterm_is_begun_by_nobody_and_handed_back_later(make):
    runs, waits = make_call("a"), make_call("b")
    worker, store = make(hand(runs, waits), begin, terminate, answer, answers={"hand_back": [AWAY, None]})
    assert worker.run() == 0
    assert [ids(asked["calls"]) for verb, asked in store.asked if verb == "hand_back"] == [[waits.id]] * 2
    assert not worker._crew.claimed


def test_after_sigterm_a_call_has_a_while_to_end_and_no_longer(make, clock):
    worker, store = make(hand(make_call("a")), begin, terminate)
    began = clock.now
    assert worker.run() == 0
    assert clock.now == began + DRAIN_SECONDS
    assert "finish" not in store.verbs()
    assert store.last("leave")["must"] is True


def test_a_worker_that_stops_asks_for_nothing_new_and_hears_of_orders(make):
    worker, store = make(hand(make_call("a")), begin, terminate, number=2)
    worker.run()
    assert store.verbs().count("claim") == 1
    assert store.last("hand_back")["stops"] is True
    assert len(worker._inbox.blocks) > 2  # before and after the call had come


def test_what_still_runs_when_its_machine_is_old_is_lost_for_that_reason(make, clock):
    worker, store = make(hand(make_call("a")), begin)
    began = clock.now
    assert worker.run() == 0
    assert clock.now == began + 60.0
    leave = store.last("leave")
    assert (leave["must"], leave["reason"]) == (True, "it still ran when its machine reached max_lifetime (60 s)")


def test_an_old_worker_with_nothing_to_do_leaves_in_time(make, clock):
    worker, store = make(answers={"leave": [*[Stay(5.0, "needed")] * 7, None]})
    began = clock.now
    assert worker.run() == 0
    assert store.last("leave")["must"] is True
    assert clock.now == began + 60.0 - DRAIN_SECONDS


def test_a_worker_whose_runners_do_not_start_says_so_and_fails(make, caplog):
    def die(worker):
        worker._crew.runners[0]._process.die(127)

    worker, _ = make(die, die, die)
    assert worker.run() == 1
    assert "exit code 127" in caplog.text


# Redis away


def test_a_leave_that_was_not_heard_is_said_again(make):
    worker, store = make(terminate, answers={"leave": [AWAY, None]})
    assert worker.run() == 0
    assert [verb for verb in store.verbs() if verb in {"join", "leave"}] == ["join", "leave", "join", "leave"]
    assert store.last("join")["first"] is False


@pytest.mark.parametrize(
    ("steps", "patience"), [((), OUTAGE), ((hand(make_call("a")), begin, answer), OUTAGE_WITH_OUTCOMES)]
)
def test_a_worker_waits_for_redis_longer_if_it_has_something_to_tell(make, clock, caplog, steps, patience):
    worker, _ = make(
        *steps,
        max_lifetime=1e5,
        answers={"finish": [AWAY], "leave": [AWAY], "join": [None, AWAY]},
    )
    began = clock.now
    assert worker.run() == 1
    assert patience < clock.now - began <= patience + LONGEST_PAUSE + 1.0
    assert "away" in caplog.text


def test_a_redis_that_refuses_is_not_asked_again(make, clock):
    refused = RedisUnavailableError("refused")
    refused.permanent = True
    worker, store = make(answers={"join": [refused]})
    began = clock.now
    assert worker.run() == 1
    assert (store.verbs().count("join"), clock.now) == (1, began)


def test_on_sigterm_nobody_waits_for_a_redis_that_is_away(make, clock):
    worker, store = make(terminate, answers={"join": [AWAY]})
    began = clock.now
    assert worker.run() == 1
    assert (store.verbs().count("join"), clock.now) == (2, began)


def test_a_worker_that_joins_again_says_what_it_holds(make):
    runs, waits = make_call("a"), make_call("b")
    worker, store = make(hand(runs, waits), begin, answer, terminate, answers={"finish": [AWAY]})
    worker.run()
    joins = [arguments["held"] for verb, arguments in store.asked if verb == "join"]
    assert joins[0] == []
    assert joins[1] == [waits.id, runs.id]


def test_after_an_answer_that_makes_no_sense_it_joins_again_over_new_connections(make, clock):
    worker, store = make(idle=Idle.STOP, answers={"claim": [PayloadError("odd"), Claimed((), 1)], "leave": [None]})
    began = clock.now
    assert worker.run() == 0
    assert store.verbs()[-5:] == ["claim", "close", "join", "run_of_server", "leave"]
    assert clock.now >= began + DAMAGE_PAUSE


# Rest


@pytest.fixture
def suspended(monkeypatch):
    """Suspensions that were asked for, and how each is answered: the last answer stays."""
    asked, answers = [], [True]

    def suspend(app, machine_id):
        asked.append((app, machine_id))
        return answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(power, "suspend", suspend)
    return asked, answers


def test_a_worker_that_was_resumed_works_on_and_lives_as_long_as_a_new_one(make, suspended, clock):
    asked, _ = suspended
    call = make_call("a")
    worker, store = make(
        *[None] * 5,
        hand(call),
        begin,
        answers={
            "join_if_started": [False, AWAY, True],
            "leave": [None, Stay(50.0, "needed"), None],
        },
    )
    assert worker.run() == 0
    assert asked == [("tested", "m1")]
    assert store.verbs().count("join_if_started") == 3
    assert store.last("leave")["reason"].startswith("it still ran")
    assert clock.now > 1000.0 + 60.0  # where its first life would have ended


def test_a_worker_that_was_started_stays_though_redis_goes_away_right_then(make, suspended):
    worker, store = make(
        answers={
            "join_if_started": [True, False],  # asked again it would seem that nobody had
            "run_of_server": ["run", AWAY, "run"],
            "leave": [None, Stay(50.0, "needed"), None],
        }
    )
    assert worker.run() == 0
    verbs = store.verbs()
    assert verbs[verbs.index("join_if_started") :][:5] == [
        "join_if_started",
        "run_of_server",
        "close",
        "join",
        "run_of_server",
    ]
    assert verbs.count("leave") == 3


@pytest.mark.parametrize("error", [AWAY, PayloadError("odd")], ids=["away", "odd"])
def test_a_worker_that_ends_and_does_not_know_whether_it_has_joined_leaves(make, suspended, error):
    worker, store = make(None, terminate, answers={"join_if_started": [error], "leave": [None]})
    assert worker.run() == 0
    assert store.verbs()[-3:] == ["join_if_started", "hand_back", "leave"]
    assert store.last("leave")["must"] is True


def test_a_worker_that_nobody_has_started_has_left_already(make, suspended):
    worker, store = make(answers={"join_if_started": [AWAY, False], "leave": [None]})
    assert worker.run() == 0
    assert store.verbs().count("leave") == 1


def test_an_answer_that_makes_no_sense_does_not_have_a_worker_join_that_nobody_has_started(make, suspended):
    worker, store = make(answers={"join_if_started": [PayloadError("odd"), False], "leave": [None]})
    assert worker.run() == 0
    assert store.verbs().count("join") == 1


def test_no_connection_is_left_open_over_a_suspension(make, suspended, monkeypatch):
    worker, store = make(answers={"join_if_started": [False]})
    open_then = []
    monkeypatch.setattr(power, "suspend", lambda *_: open_then.extend([worker._inbox.waiting]) or True)
    assert worker.run() == 0
    assert open_then == [False]
    assert store.verbs().index("close") < store.verbs().index("join_if_started")


@pytest.mark.parametrize(("asked_for", "patience"), [(True, WAKE_PATIENCE), (False, 0.0)])
def test_a_worker_that_nobody_starts_ends(make, suspended, clock, asked_for, patience):
    _, answers = suspended
    answers[:] = [asked_for]
    worker, store = make(answers={"join_if_started": [False]})
    began = clock.now + LEAVE_AGAIN
    assert worker.run() == 0
    assert patience <= clock.now - began <= patience + 1.1
    assert worker._life.stage is Stage.ENDED
    assert store.verbs().count("leave") == 1


def test_a_signal_ends_a_worker_that_waits_to_be_started_and_has_left_already(make, suspended, clock):
    worker, store = make(None, None, terminate, answers={"join_if_started": [False]})
    began = clock.now
    assert worker.run() == 0
    assert clock.now < began + 1.0
    assert store.verbs().count("leave") == 1
