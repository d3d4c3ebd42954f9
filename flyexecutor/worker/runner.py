"""Step 7: the runner, a child of the worker: verify, load, run user code, dump. One call at a time.

Woken by a frame on its pipe; ends when that pipe is closed (the worker has gone). Each call has a token in a second
pipe: who reads the token has the call, so that the worker can take back what waits behind a long call. Killed at any
point: the worker sees its end, and the tokens tell which call it had begun.
"""

import os
import sys
import time

from flyexecutor import payload
from flyexecutor.errors import PayloadError
from flyexecutor.trust import KEY_VARIABLE, Trust
from flyexecutor.worker.pipe import (
    RAISED,
    RETURNED,
    SKIPPED,
    Answered,
    FrameReader,
    Given,
    pack_answered,
    unpack_given,
    write_frames,
)


def main(given_fd: int, answers_fd: int, tokens_fd: int) -> None:
    """Run what comes until the worker closes its end."""
    trust = Trust(bytes.fromhex(os.environ[KEY_VARIABLE]), os.environ["FLY_APP_NAME"])
    reader = FrameReader(given_fd)
    while True:
        try:
            frames = reader.read_some()
        except EOFError:
            return
        for frame in frames:
            call = unpack_given(frame)
            try:
                os.read(tokens_fd, 1)
            except BlockingIOError:
                answer = Answered(call.call_id, call.attempt, SKIPPED, 0.0, b"")
            else:
                answer = run(call, trust)
            write_frames(answers_fd, [pack_answered(answer)])


def run(call: Given, trust: Trust) -> Answered:
    """Run one call. SystemExit is not caught: it ends this process, and the worker tells so."""
    began = time.monotonic()
    try:
        opened = trust.open_call(call.call_id, call.sealed)
        invocation = payload.load_call(opened.body)
        value = invocation.fn(*invocation.args, **invocation.kwargs)
    except PayloadError as exc:
        kind, dumped = RAISED, payload.dump_error(exc)
    except (Exception, KeyboardInterrupt) as exc:  # noqa: BLE001 - whatever user code raises is its outcome
        kind, dumped = RAISED, payload.dump_exception(exc)
    else:
        kind, dumped = RETURNED, payload.dump_value(value)
    seconds = time.monotonic() - began
    sys.stdout.flush()
    sealed = trust.seal_outcome(call.call_id, call.attempt, dumped.body, dumped.encoding)
    return Answered(call.call_id, call.attempt, kind, seconds, sealed)


if __name__ == "__main__":
    main(*(int(fd) for fd in sys.argv[1:4]))
