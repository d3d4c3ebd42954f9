"""The threads of a client: started once, counted until the last has ended."""

import threading

import pytest

from flyexecutor.client.threads import Threads

WAIT = 20.0


class Part:
    """Something that runs in a thread until it is let go."""

    def __init__(self, error=None):
        self.begun, self.go = threading.Event(), threading.Event()
        self.error = error
        self.thread = None

    def run(self):
        self.thread = threading.current_thread()
        self.begun.set()
        assert self.go.wait(WAIT)
        if self.error:
            raise self.error

    def end(self):
        self.go.set()
        self.thread.join(WAIT)


@pytest.fixture
def heard():
    """Who died of what, and in which thread all had ended."""
    return []


@pytest.fixture
def threads(heard):
    return Threads(
        died=lambda name, exc: heard.append((name, exc)),
        all_ended=lambda: heard.append(threading.current_thread()),
    )


def started(threads, *parts):
    for part in parts:
        threads.add(part.run, "part")
    threads.start()
    for part in parts:
        assert part.begun.wait(WAIT)
    return parts


def test_what_is_added_is_started_once_and_by_its_name(threads):
    (first,) = started(threads, Part())
    assert (first.thread.name, first.thread.daemon) == ("flyexecutor part", True)
    first.begun.clear()
    (second,) = started(threads, Part())
    assert not first.begun.is_set()
    first.end()
    second.end()


def test_what_found_no_room_for_a_thread_is_started_the_next_time_before_what_came_after_it(threads, monkeypatch):
    first, second, tried = Part(), Part(), []
    threads.add(first.run, "first")
    threads.add(second.run, "second")

    def refuse(thread):
        tried.append(thread.name)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                threads.start()
    assert tried == ["flyexecutor first"] * 2
    threads.start()
    assert first.begun.wait(WAIT)
    assert second.begun.wait(WAIT)
    first.end()
    second.end()


def test_the_last_that_ends_says_that_all_have(threads, heard):
    first, second = started(threads, Part(), Part())
    first.end()
    with threads.ending():
        pass
    assert heard == []
    second.end()
    assert heard == [second.thread]


def test_none_is_the_last_while_they_are_told_to_end(threads, heard):
    (part,) = started(threads, Part())
    with threads.ending():
        part.end()
        assert heard == []
    assert heard == [threading.current_thread()]


def test_who_tells_them_to_end_may_fail_and_is_no_thread_that_they_wait_for(threads, heard):
    (part,) = started(threads, Part())
    with pytest.raises(KeyboardInterrupt), threads.ending():
        raise KeyboardInterrupt
    part.end()
    assert heard == [part.thread]


def test_threads_that_nobody_told_to_end_do_not_say_that_all_have(threads, heard):
    (part,) = started(threads, Part())
    part.end()
    assert heard == []


@pytest.mark.parametrize("error", [SystemExit(), MemoryError()])
def test_one_that_dies_is_reported_and_counts_as_ended(threads, heard, error):
    (part,) = started(threads, Part(error))
    with threads.ending():
        pass
    part.end()
    assert heard == [("part", error), part.thread]


def test_one_that_found_no_room_counts_as_ended(threads, heard, monkeypatch):
    threads.add(Part().run, "part")
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            threads.start()
    with threads.ending():
        pass
    assert heard == [threading.current_thread()]
