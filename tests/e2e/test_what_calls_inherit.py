"""What a call and the processes that it starts find in their environment: nothing of ours, and all of the user's."""

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis

from flyexecutor import FlyMachineExecutor
from flyexecutor.payload.pickles import dump_value
from flyexecutor.payload.trust import Trust
from flyexecutor.states import State
from flyexecutor.terms import answer_to
from tests import tasks

WAIT = 30.0
TELL = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(k + b'=' + v for k, v in os.environb.items()))"


def _in_a_call() -> bytes:
    return b"\0".join(name + b"=" + value for name, value in os.environb.items())


def _at_its_start() -> bytes:
    return Path("/proc/self/environ").read_bytes()


def _in_a_command() -> bytes:
    return subprocess.check_output([sys.executable, "-c", TELL])


def _after_fork_and_exec() -> bytes:
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(into, 1)
        os.execv(sys.executable, [sys.executable, "-c", TELL])
    os.close(into)
    with open(out, "rb") as told:
        found = told.read()
    os.waitpid(pid, 0)
    return found


def _in_a_spawned_process() -> bytes:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(subprocess.check_output, ([sys.executable, "-c", TELL],))


def _in_the_frames_below() -> str:
    """What Sentry, with `attach_stacktrace`, sends along with what a call logs."""
    frame, found = sys._getframe(), []
    while frame:
        found.append(f"{frame.f_code.co_name} {frame.f_locals!r}")
        frame = frame.f_back
    return "\n".join(found)


@pytest.mark.parametrize(
    "look", [_in_a_call, _at_its_start, _in_a_command, _after_fork_and_exec, _in_a_spawned_process]
)
def test_neither_the_key_nor_the_address_of_redis_is_in_the_environment_of_user_code(look, make_executor):
    if look is _at_its_start and not Path("/proc/self/environ").exists():
        pytest.skip("needs Linux")
    executor = make_executor(env={"MINE": "to be seen"})
    found = executor.submit(look).result(WAIT)
    assert b"MINE=to be seen" in found
    assert b"FLY_MACHINE_ID=" in found
    assert b"FLYEXECUTOR_" not in found
    assert executor._settings.redis_url.encode() not in found
    assert executor._settings.key.hex().encode() not in found


def test_a_redis_of_the_users_own_is_what_calls_see_and_not_where_their_calls_go(make_executor):
    def ask() -> tuple[str, int]:
        return os.environ["REDIS_URL"], FlyMachineExecutor().submit(tasks.increment, 1).result(WAIT)

    mine = "redis://cache.internal:6379/3"
    assert make_executor(env={"REDIS_URL": mine}).submit(ask).result(WAIT) == (mine, 2)


def test_executors_in_threads_and_in_a_forked_process_of_a_call_submit_calls_all_the_same(make_executor):
    def ask() -> list[int]:
        found = []
        thread = threading.Thread(
            target=lambda: found.append(FlyMachineExecutor().submit(tasks.increment, 1).result(WAIT))
        )
        thread.start()
        thread.join()
        out, into = os.pipe()
        if os.fork() == 0:
            with FlyMachineExecutor() as executor:
                os.write(into, b"%d" % executor.submit(tasks.increment, 2).result(WAIT))
            os._exit(0)
        return [*found, int(os.read(out, 10))]

    assert make_executor().submit(ask).result(2 * WAIT) == [2, 3]


def test_what_a_spawned_process_lacks_for_an_executor_of_its_own_is_told(make_executor):
    def ask() -> str:
        code = "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1]))"
        import pickle  # noqa: PLC0415

        with FlyMachineExecutor() as executor:
            told = pickle.dumps(executor).hex()
        return subprocess.run([sys.executable, "-c", code, told], capture_output=True, text=True, check=False).stderr

    said = make_executor().submit(ask).result(WAIT)
    assert "the processes that it starts do not inherit the key" in said


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux")
def test_code_in_a_call_finds_the_key_if_it_looks_for_it_in_the_worker(make_executor):
    """No promise, but what docs/security.md says: a call is trusted."""
    executor = make_executor()
    found = executor.submit(lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes()).result(WAIT)
    assert executor._settings.key.hex().encode() in found
    assert executor._settings.token.encode() not in found


def test_neither_the_key_nor_the_address_of_redis_is_shown_by_the_frames_below_a_call(make_executor):
    executor = make_executor()
    found = executor.submit(_in_the_frames_below).result(WAIT)
    assert "main {" in found
    assert executor._settings.key.hex() not in found
    assert executor._settings.redis_url not in found


class _InTheClient:
    def __reduce__(self):
        return os.getpid, ()


def _answer_instead(call_id):
    environ = Path(f"/proc/{os.getppid()}/environ").read_text().split("\0")
    environ = dict(line.split("=", 1) for line in environ if line)
    trust = Trust(bytes.fromhex(environ["FLYEXECUTOR_KEY"]), environ["FLY_APP_NAME"])
    with redis.Redis.from_url(environ["FLYEXECUTOR_REDIS_URL"], decode_responses=False) as writer:
        (key,) = writer.keys(f"*:call:{call_id}")
        sealed, watch = writer.hmget(key, "call", "watch")
        value = dump_value(_InTheClient())
        terms = answer_to(trust.unverified_terms(sealed), State.SUCCEEDED)
        body = trust.seal_outcome(call_id, 1, terms, value.body, value.encoding)
        stream = key.split(b":call:")[0] + b":outcomes:" + watch.split()[0]
        writer.xadd(stream, {"head": f"{call_id} SUCCEEDED 1 m - - 0 0 0", "body": body})


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux")
def test_code_in_a_call_that_takes_the_key_runs_code_in_a_client_of_another_lane(make_executor, tmp_path):
    """No promise either: whoever has key and Redis is one of us."""
    executor, gate = make_executor(max_workers=1), tasks.Gate.make(tmp_path)
    executor.submit(gate.enter)
    gate.wait_for_entry()
    waiting = executor.submit(tasks.increment, 1)
    executor.flush(WAIT)
    make_executor(env={"OTHER": "lane"}).submit(_answer_instead, waiting.id).result(WAIT)
    assert waiting.result(WAIT) == os.getpid()
    gate.open()
