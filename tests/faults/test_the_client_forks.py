"""The client forks: threads and connections are made anew in the child, the parent's are untouched."""

import os
import signal
import threading

from tests import tasks

WAIT = 30.0


def test_an_executor_made_before_a_fork_works_in_the_child_and_in_the_parent(executor):
    before = executor.submit(tasks.increment, 1)
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writable, str(executor.submit(tasks.increment, 41).result(WAIT)).encode())
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as answer:
        assert answer.read() == "42"
    assert os.waitpid(child, 0)[1] == 0
    assert before.result(WAIT) == 2
    assert executor.submit(tasks.increment, 2).result(WAIT) == 3


def test_what_tells_of_machines_uses_connections_of_its_own_in_the_child(make_executor, monkeypatch):
    executor = make_executor()

    def ask():
        executor.stats(), executor.machines(), executor.schedules(), executor.reap(), executor.prepare(0)

    ask()

    def use(*args, **kwargs):
        raise AssertionError("a connection of the parent is used")

    with monkeypatch.context() as parents:
        parents.setattr(executor._client.store._redis.connection_pool, "get_connection", use)
        parents.setattr(executor._client.machines, "_request", use)
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                ask()
                os.write(writable, b"answered")
            finally:
                os._exit(0)
        os.close(writable)
        with os.fdopen(readable) as answer:
            assert answer.read() == "answered"
        assert os.waitpid(child, 0)[1] == 0
    ask()


def test_a_child_that_drops_its_copy_of_a_map_cancels_nothing_of_the_parent(make_executor, tmp_path):
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    results = executor.map(lambda n: gate.enter() and n if n == 1 else n, range(4))
    assert next(results) == 0
    gate.wait_for_entry()
    child = os.fork()
    if child == 0:
        results.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    gate.open()
    assert list(results) == [1, 2, 3]


def test_a_child_does_not_wait_for_an_attach_of_the_parent(make_executor, monkeypatch):
    executor = make_executor()
    done = executor.submit(tasks.increment, 1)
    assert done.result(WAIT) == 2
    call_id = done.id
    del done
    asked, go, inner = threading.Event(), threading.Event(), executor._client.store.attach

    def attach(*told):
        asked.set()
        assert go.wait(WAIT)
        return inner(*told)

    monkeypatch.setattr(executor._client.store, "attach", attach)
    thread = threading.Thread(target=executor.future, args=(call_id,))
    thread.start()
    assert asked.wait(WAIT)
    child = os.fork()
    if child == 0:
        signal.alarm(int(WAIT))
        os._exit(executor.future(call_id).result(WAIT))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    go.set()
    thread.join()
