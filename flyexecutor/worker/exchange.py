"""Steps 6 and 8: what a worker exchanges with Redis: it takes calls, hands them back, and stores how they ended.

Owns its inbox, a blocking read on a connection of its own, and what has ended here and Redis does not know yet: that is
forgotten only once Redis has taken it, so that it is stored later if Redis was away. No thread: the loop calls it.
Never runs a call, and never decides which runner has it.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from flyexecutor.call import ClaimedCall, Outcome, Part
from flyexecutor.payload.trust import Trust
from flyexecutor.store.calls import BUNDLE_BYTES, Claimed, Intake, Store
from flyexecutor.worker.admission import Admission
from flyexecutor.worker.crew import Interrupted
from flyexecutor.worker.membership import Membership
from flyexecutor.worker.outcomes import Outcomes, Outgrown, Retried
from flyexecutor.worker.runner_process import Answer


class Exchange:
    """The calls of one worker, on their way from Redis and back. Its attributes are many since what it is called by in
    Redis are five of them.
    """

    def __init__(
        self,
        store: Store,
        trust: Trust,
        membership: Membership,
        *,
        lane: str,
        machine_id: str,
        region: str,
        concurrency: int,
    ) -> None:
        self._store = store
        self._trust = trust
        self._membership = membership
        self._lane = lane
        self._machine_id = machine_id
        self._region = region
        self._concurrency = concurrency
        self._admission = Admission(lane)
        self._tell = Outcomes(trust, machine_id, region)
        self.inbox = store.inbox(machine_id)
        self.to_come = 0  # calls that are handed to this worker, or will be, as Redis knows it
        self.outcomes: list[Outcome] = []  # not stored yet
        self._elsewhere: deque[Retried | Outgrown] = deque()  # these have no outcome, and Redis does not know it yet
        self._parts: dict[str, Part] = {}  # what the calls claimed last share

    @property
    def owes(self) -> bool:
        """Whether a call has ended and Redis does not know it."""
        return bool(self.outcomes or self._elsewhere)

    def held(self) -> Iterator[str]:
        """The ids of the calls of which Redis does not know that they have ended."""
        for outcome in self.outcomes:
            yield outcome.id
        for ending in self._elsewhere:
            yield ending.call.id

    def joined(self) -> None:
        """It is in its lane, perhaps again: nothing is handed to it yet. The connection is a new one."""
        self.to_come = 0
        self.inbox.rewind()
        self._admission.note_server(self._store.run_of_server())

    # Claim

    def claim(self, more: int, free: int) -> list[ClaimedCall]:
        """Claim up to `more` calls that wait; if fewer than `free` do, have others handed to this worker as they come.

        Answers those that may run here.
        """
        intake = self._intake(more, free)
        return self._take(self._store.claim(self._lane, self._machine_id, self._region, intake, known=self._parts))

    def receive(self) -> tuple[list[ClaimedCall], Sequence[str]]:
        """What has come by the inbox: the calls that may run here, and the ids of calls that shall be killed."""
        mail = self.inbox.receive(self._parts)
        self.to_come = max(0, self.to_come - len(mail.calls))
        return self._admit(mail.calls), mail.kills

    def hand_back(self, calls: Sequence[ClaimedCall], *, stops: bool) -> None:
        """Queue claimed calls again that have not begun. stops: those that it has not read, too, and no more come."""
        self._store.hand_back(self._lane, self._machine_id, calls, stops=stops, read_to=self.inbox.read_to)
        self.to_come = 0 if stops else self.to_come

    def leave(self) -> bool:
        """Leave the lane, being idle; False: it is needed here."""
        left = self._membership.leave(self.inbox.read_to)
        self.to_come = 0
        return left

    def _intake(self, more: int, free: int) -> Intake:
        return Intake(more, free, self._concurrency, self.inbox.read_to, self.to_come)

    def _take(self, claimed: Claimed) -> list[ClaimedCall]:
        self.inbox.note_removed()
        self.to_come = claimed.to_come
        return self._admit(claimed.calls)

    def _admit(self, calls: Iterable[ClaimedCall]) -> list[ClaimedCall]:
        admitted = []
        for claimed in calls:
            terms = self._trust.unverified_terms(claimed.sealed)
            call = replace(claimed, terms=terms) if terms else claimed
            if refusal := self._admission.refusal(call):
                self.outcomes.append(self._tell.refused(call, refusal))
                continue
            admitted.append(call)
            if call.parts:
                self._parts = {part.id: part for part in call.parts if part.sealed}
        return admitted

    # Finish

    def end(self, ended: Answer | Interrupted) -> None:
        """A call has ended here, or its runner has."""
        ending: Outcome | Retried | Outgrown
        match ended:
            case Answer():
                ending = self._tell.answered(ended)
            case Interrupted(call, death):
                ending = self._tell.died(call, death)
        if isinstance(ending, Outcome):
            self.outcomes.append(ending)
        else:
            self._elsewhere.append(ending)

    def end_wanted(self, call: ClaimedCall) -> None:
        """A call that has not begun, and that somebody wants killed."""
        self.outcomes.append(self._tell.killed(call, None))

    def send_elsewhere(self) -> None:
        """Have Redis queue again, here or elsewhere, what has no outcome."""
        while self._elsewhere:
            match self._elsewhere[0]:
                case Retried(call, wait):
                    self._store.retry(self._lane, call, wait)
                    self._membership.expect_due(wait)
                case Outgrown(call, reason, logs):
                    self._store.outgrow(self._lane, self._machine_id, self._region, call, reason, logs)
            self._membership.worked()
            self._elsewhere.popleft()  # only now

    def finish(self, more: int, free: int) -> list[ClaimedCall]:
        """Store outcomes, as many as one request takes, and claim in the same trip, as `claim` does."""
        bundle = self._bundle()
        claimed = self._store.finish(
            self._lane,
            self._machine_id,
            self._region,
            bundle,
            self._intake(more, free),
            known=self._parts,
        )
        late = claimed.late
        self._admission.note_ended(outcome.nonce for n, outcome in enumerate(bundle) if n not in late and outcome.nonce)
        del self.outcomes[: len(bundle)]  # only now
        self._membership.worked(spare=claimed.spare)
        return self._take(claimed)

    def _bundle(self) -> list[Outcome]:
        bundle: list[Outcome] = []
        size = 0
        for outcome in self.outcomes:
            size += len(outcome.sealed) + len(outcome.logs)
            if bundle and size > BUNDLE_BYTES:
                break
            bundle.append(outcome)
        return bundle
