"""What a scheduled machine does first when Fly has started it: submits its call, which its worker then runs.

The call came with the machine's configuration, sealed. It is sealed anew for each run, with an id and terms of its own.
Killed in between: the machine restarts and submits another one, so a run may happen twice (at least once, like every
call).
"""

import base64
import json

from flyexecutor.call import Call
from flyexecutor.lane import Lane
from flyexecutor.payload.trust import Trust
from flyexecutor.store.calls import Store
from flyexecutor.terms import new_terms


def submit_scheduled(scheduled: str, store: Store, trust: Trust, lane_name: str, concurrency: int) -> str:
    """Submit the call of this machine's schedule. Answers its id; raises PayloadError, RedisUnavailableError."""
    schedule = json.loads(scheduled)
    opened = trust.open_part(f"schedule {schedule['name']}", base64.b64decode(schedule["sealed"]))
    call_id = trust.new_call_id()
    result_ttl, retries = schedule["result_ttl"], schedule["retries"]
    terms = new_terms((lane_name,), result_ttl=result_ttl, retries=retries, timeout=schedule["timeout"])
    sealed = trust.seal_call(call_id, terms, bytes(opened.body), opened.encoding)
    call = Call(call_id, sealed, retries, name=schedule["name"])
    # No client waits for it, and this machine itself is its worker: nothing is reserved.
    lane = Lane(lane_name, config={}, regions=(), max_workers=0, concurrency=concurrency, boot_timeout=60.0)
    store.enqueue(lane, [call], client="", result_ttl=result_ttl, reservation=f"schedule.{call_id}")
    store.note_run(schedule["name"], call_id)
    return call_id
