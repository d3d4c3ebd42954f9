"""The client forks: threads and connections are made anew in the child, the parent's are untouched."""

import os

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
