"""What threads find out of a Redis is told once, whoever of them finds it."""

import os
import threading

import pytest

from flyexecutor import RedisUnavailableError
from flyexecutor.store import outage

AWAY = RedisUnavailableError("Redis at redis://h can't be reached")
TOLD = "Redis at redis://h can't be reached (told once, until it answers again)"
BACK = "Redis at redis://h answers again, after 0 s"


@pytest.fixture(autouse=True)
def nothing_is_away(monkeypatch):
    monkeypatch.setattr(outage, "_now", {})


def fails(times=1, address="redis://h"):
    for _ in range(times):
        with pytest.raises(RedisUnavailableError), outage.noticed(address):
            raise AWAY


def answers(address="redis://h"):
    with outage.noticed(address):
        pass


def in_threads(number, work):
    """All at once."""
    start = threading.Barrier(number)
    threads = [threading.Thread(target=lambda: (start.wait(), work())) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_many_threads_tell_of_each_change_once(caplog):
    for _ in range(2):
        in_threads(8, lambda: fails(20))
        in_threads(8, answers)
    assert caplog.messages == [TOLD, BACK] * 2


def test_a_connection_that_was_cut_is_not_told(caplog):
    for _ in range(3):
        in_threads(8, fails)
        answers()
    assert caplog.messages == []


def test_an_answer_to_what_was_asked_before_is_no_return(caplog):
    with outage.noticed("redis://h"):
        in_threads(1, lambda: fails(2))
    assert caplog.messages == [TOLD]
    answers()
    assert caplog.messages == [TOLD, BACK]


def test_each_server_has_its_own_state(caplog):
    fails(2)
    answers("redis://other")
    assert caplog.messages == [TOLD]


def test_other_errors_are_no_news_of_redis(caplog):
    fails(2)
    with pytest.raises(ZeroDivisionError), outage.noticed("redis://h"):
        raise ZeroDivisionError
    answers()
    assert caplog.messages == [TOLD, BACK]


def test_a_forked_child_finds_out_for_itself(caplog):
    fails(2)
    told, tell = os.pipe()
    if not (child := os.fork()):
        caplog.clear()
        fails(2)
        os.write(tell, repr(caplog.messages).encode())
        os._exit(0)
    os.close(tell)
    with open(told) as file:
        assert file.read() == repr([TOLD])
    os.waitpid(child, 0)
    answers()
    assert caplog.messages == [TOLD, BACK]
