"""How calls have ended, in words for the store: what runners answered, and what is told of those that died.

A call has an outcome, or goes elsewhere without one: it is tried again, or has outgrown its machine. Each call that a
worker ended, or that ended its process, is in the machine's log as well.
"""

import logging
import signal
from dataclasses import dataclass

from redis.backoff import EqualJitterBackoff

from flyexecutor.call import ClaimedCall, Outcome
from flyexecutor.errors import CallTimeoutError, FlyExecutorError, PayloadError, WorkerCrashedError
from flyexecutor.names import label, visible
from flyexecutor.payload import plain
from flyexecutor.payload.trust import Encoding, Trust
from flyexecutor.states import State
from flyexecutor.terms import UNREAD, answer_to
from flyexecutor.worker.pipe import AGAIN, REFUSED, RETURNED
from flyexecutor.worker.runner_process import KILLED, TIMED_OUT, Answer, Death

MOST_DOUBLINGS = 64  # of the pause before a retry: it has reached its longest by then, and 2**1024 is no float

log = logging.getLogger("flyexecutor.worker")


@dataclass(frozen=True, slots=True)
class Retried:
    """A call that raised and is queued again."""

    call: ClaimedCall
    wait: float  # seconds before that


@dataclass(frozen=True, slots=True)
class Outgrown:
    """A call that ran out of memory: it goes to a larger machine if it may, else it is lost."""

    call: ClaimedCall
    reason: str
    logs: bytes  # the end of what it printed


class Outcomes:
    """The outcomes of one machine."""

    def __init__(self, trust: Trust, machine_id: str, region: str) -> None:
        self._trust = trust
        self._machine_id = machine_id
        self._region = region

    def answered(self, answer: Answer) -> Outcome | Retried:
        """The function returned or raised."""
        call, message = answer.call, answer.message
        if message.kind == AGAIN:
            # At least half of the pause, so that it is one; redis-py's, since we have it.
            backoff = EqualJitterBackoff(cap=message.longest, base=message.seconds)
            return Retried(call, backoff.compute(min(call.raised, MOST_DOUBLINGS)))
        state = State.SUCCEEDED if message.kind == RETURNED else State.FAILED
        return self._outcome(call, state, message.body, answer.logs, opened=message.kind != REFUSED)

    def refused(self, call: ClaimedCall, refusal: PayloadError) -> Outcome:
        """It was not run: it does not belong here."""
        log.error("%s", refusal)
        return self._outcome(call, State.FAILED, self._seal(call, plain.dump(refusal)), b"", opened=False)

    def died(self, call: ClaimedCall, death: Death) -> Outcome | Outgrown:
        """The call ended its process, or we did."""
        if death.stopping == KILLED:
            return self.killed(call, death)
        if death.stopping == TIMED_OUT:
            reason = f"the call ran longer than its timeout of {call.terms.timeout:g} s and was stopped by {death}"
            return self._failed(call, CallTimeoutError, reason, death)
        if death.code == -signal.SIGKILL and not death.cut_off:
            # Nobody here sends it but the kernel, when memory is short (Linux: the OOM killer).
            reason = f"its process ended with {death}, which is how the kernel ends what needs too much memory"
            log.warning("call %s: %s", label(call.id, call.name), reason)
            return Outgrown(call, reason, death.logs)
        return self._failed(call, WorkerCrashedError, f"the process that ran the call ended with {death}", death)

    def killed(self, call: ClaimedCall, death: Death | None) -> Outcome:
        """It was stopped because somebody asked for that; death: None if it had not begun."""
        how, logs = (f"by {death}", death.logs) if death else ("before it began", b"")
        log.warning("call %s was killed %s: somebody asked for that", label(call.id, call.name), how)
        return self._outcome(call, State.KILLED, f"killed {how}".encode(), logs, opened=death is not None)

    def _failed(self, call: ClaimedCall, kind: type[FlyExecutorError], reason: str, death: Death) -> Outcome:
        log.warning("call %s: %s\n%s", label(call.id, call.name), reason, visible(death.faults))
        body = plain.dump(kind(f"{reason} (machine {self._machine_id})"), visible(death.faults))
        return self._outcome(call, State.FAILED, self._seal(call, body), death.logs)

    def _seal(self, call: ClaimedCall, error: bytes) -> bytes:
        terms = answer_to(call.terms, State.FAILED)
        return self._trust.seal_outcome(call.id, call.attempt, terms, error, Encoding.TEXT)

    def _outcome(self, call: ClaimedCall, state: State, sealed: bytes, logs: bytes, *, opened: bool = True) -> Outcome:
        # What no runner has opened may bear the nonce of another: that one must still run.
        nonce = call.terms.nonce if opened and call.terms is not UNREAD else b""
        return Outcome(call.id, call.attempt, state, self._machine_id, self._region, sealed, logs, nonce=nonce)
