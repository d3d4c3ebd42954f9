"""The only module that knows Redis. Each verb is one function, in the order of a call's way (steps 3 to 9).

Every change of a call's state is one atomic script from `lua/`; `lua/lib_keys.lua` lists the keys. Sealed bytes pass
through unread. Errors of redis-py end here as RedisUnavailableError, with the server's address but not its password.
Owns connections and no thread: whoever calls a verb waits for it. Retrying is the caller's business, since only the
caller knows what a lost answer means to it.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import redis

from flyexecutor.call import Call, CallInfo, ClaimedCall, Outcome, Part, Report
from flyexecutor.damage import MOST_ATTEMPTS, whole, word
from flyexecutor.damage import state as state_of
from flyexecutor.lane import Lane
from flyexecutor.names import read_name
from flyexecutor.states import State
from flyexecutor.store.connection import if_sound, translated
from flyexecutor.store.lanes import RESERVATION_TTL, LaneStore, seconds_of, texts_of
from flyexecutor.store.reader import InboxReader, OutcomeReader
from flyexecutor.store.records import Attached, further_fields, name_of, read_times
from flyexecutor.store.scripts import script

BUNDLE_BYTES = 8 * 1024 * 1024  # of payloads in one script call: Upstash refuses a request over 10 MB
SUSPEND_EVERY = 0.01  # seconds between two machines of an app: Fly advises against many at once, and names no number
NOT_STARTED = -2  # what `join` answers


@dataclass(frozen=True, slots=True)
class Granted:
    """What a client has to do so that the calls that it has stored have machines."""

    reservations: Sequence[str] = ()  # it must turn each into a machine, or release it
    resting: Sequence[tuple[str, str]] = ()  # machines that it must start, or release, each with a proof (trust.py)
    waits: bool = False  # not every call has a worker yet


@dataclass(frozen=True, slots=True)
class Intake:
    """How much a worker takes."""

    more: int  # calls that wait
    free: int  # calls that it would begin at once: so many of those that come next are handed to it
    concurrency: int
    read_to: str  # of its inbox (InboxReader.read_to)
    to_come: int = 1  # for so many it has had places, and has not read them; 0: there are none in its inbox


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a worker gets for its outcomes, or because it is free."""

    calls: Sequence[ClaimedCall]
    to_come: int  # so many are handed to it, or will be
    spare: bool = False  # fewer workers would do: it may leave
    late: frozenset[int] = frozenset()  # which outcomes (0: the first) came too late: their calls run again


@dataclass(frozen=True, slots=True)
class Stay:
    """For how long a worker that wanted to leave has to stay, and why."""

    seconds: float
    why: str  # needed: calls wait, or it is not spare; due: a call is due then; turn: then it may be suspended


class Store(LaneStore):
    """The records of one app in one Redis. Safe to use from several threads, and after a fork."""

    # Steps 3 and 4: the outbox

    @translated
    def enqueue(
        self, lane: Lane, calls: Sequence[Call], *, client: str, result_ttl: float, reservation: str
    ) -> Granted:
        """Store calls as QUEUED. Answers which machines the asker must see to.

        May be sent again: calls that are stored already are passed over.
        """
        args: list[Any] = [self._prefix, lane.name, lane.max_workers, lane.concurrency, int(RESERVATION_TTL * 1000)]
        args += (reservation, client, max(1, int(result_ttl)), int(lane.load_window * 1000))
        size = 0
        for n, call in enumerate(calls):
            pieces, inline = self._records.put(f"{reservation}.{n}", call.sealed)
            size += len(inline)
            further = further_fields(call)
            new = int(not call.keyed)
            args += (call.id, new, call.retries, int(call.keep), pieces, inline, call.name, len(further), *further)
        granted, resting, waits = script("enqueue")(self._client(size), self._lane_keys(lane.name), args)
        words = texts_of(resting)
        return Granted(texts_of(granted), list(zip(words[::2], words[1::2], strict=True)), bool(waits))

    @translated
    def put_part(self, part: Part) -> None:
        """Store what several calls share, before the first of them is stored."""
        self._records.put_part(part)

    @translated
    def drop_part(self, part: Part) -> None:
        """Remove what several calls shared, once they have all ended."""
        self._records.drop_part(part)

    # Steps 6 to 8: the worker

    @translated
    def join(self, lane: str, machine_id: str, *, first: bool, held: Iterable[str] = ()) -> float | None:
        """A worker is there; what its machine had claimed and does not hold is queued again.

        Answers the seconds until a call is due (None: none is): call `tend_due` then.
        """
        args = (self._prefix, machine_id, int(first), *held)
        return seconds_of(script("join")(self._redis, self._lane_keys(lane), args))

    @translated
    def join_if_started(self, lane: str, machine_id: str) -> bool:
        """A worker that has left joins again if somebody has started its machine since."""
        args = (self._prefix, machine_id, 2)
        return int(script("join")(self._redis, self._lane_keys(lane), args)) != NOT_STARTED

    @translated
    def run_of_server(self) -> str:
        """Which run of which server this is: another may have forgotten what that one knew. Empty: not told."""
        try:
            info: Any = self._redis.info("server")
        except redis.ResponseError:  # a provider may not allow it
            return ""
        return str(info.get("run_id") or "")

    @translated
    def tend_due(self, lane: str) -> float | None:
        """Queue the calls that have waited for their retry, end those that have expired. Answers as `join` does."""
        return seconds_of(script("due")(self._redis, (self._key("queue", lane),), (self._prefix,)))

    def inbox(self, machine_id: str) -> InboxReader:
        """A reader of what is handed to this machine's worker, on a connection of its own."""
        return InboxReader(self._blocking, self.address, self._key("inbox", machine_id), self._records.mail)

    @translated
    def claim(
        self, lane: str, machine_id: str, region: str, intake: Intake, known: Mapping[str, Part] = MappingProxyType({})
    ) -> Claimed:
        """Mark calls that wait as RUNNING, as many as the worker takes, and note what it would take beyond them.

        known: parts that are here already.
        """
        args = (self._prefix, *_words(machine_id, region, intake))
        to_come, claimed = script("claim")(self._redis, (self._key("queue", lane),), args)
        return Claimed(self._records.claimed(claimed, known), to_come)

    @translated
    def finish(
        self,
        lane: str,
        machine_id: str,
        region: str,
        outcomes: Sequence[Outcome],
        intake: Intake,
        known: Mapping[str, Part] = MappingProxyType({}),
    ) -> Claimed:
        """Store and publish outcomes, and claim in the same trip.

        May be sent again: an outcome whose call has ended already changes nothing.
        """
        parts: list[Any] = []
        size = 0
        for outcome in outcomes:
            pieces, inline = self._records.put(name_of(outcome), outcome.sealed)
            size += len(inline) + len(outcome.logs)
            parts += (outcome.id, outcome.attempt, outcome.state.value, pieces, inline, outcome.logs)
        fixed = (self._prefix, *_words(machine_id, region, intake), self._records.take_sent())
        answer = script("finish")(self._client(size), (self._key("queue", lane),), (*fixed, *parts))
        spare, to_come, claimed, late = answer
        return Claimed(self._records.claimed(claimed, known), to_come, bool(spare), frozenset(late))

    @translated
    def hand_back(
        self, lane: str, machine_id: str, calls: Sequence[ClaimedCall], *, stops: bool = False, read_to: str = ""
    ) -> None:
        """Queue claimed calls again that were not begun. stops: the worker takes no more; read_to: of its inbox."""
        attempts = [part for call in calls for part in (call.id, call.attempt)]
        fixed = (self._prefix, machine_id, int(stops), read_to)
        script("hand_back")(self._redis, (self._key("queue", lane),), (*fixed, *attempts))

    @translated
    def retry(self, lane: str, call: ClaimedCall, wait: float) -> None:
        """Queue a call again that raised, after `wait` seconds."""
        args = (self._prefix, call.id, call.attempt, int(wait * 1000))
        script("retry")(self._redis, (self._key("queue", lane),), args)

    @translated
    def outgrow(self, lane: str, machine_id: str, region: str, call: ClaimedCall, reason: str, logs: bytes) -> None:
        """A call ran out of memory: it goes to a larger machine if it may, else it is LOST."""
        args = (self._prefix, machine_id, region, call.id, call.attempt, reason, logs)
        script("outgrow")(self._redis, (self._key("queue", lane),), args)

    @translated
    def report(self, reports: Sequence[Report]) -> int:
        """Tell what running calls say. Answers how much of what was told some client has not read yet."""
        args: list[Any] = [self._prefix]
        size = 0
        for report in reports:
            pieces, inline = self._records.put(name_of(report), report.body)
            size += len(inline)
            args += (report.id, report.attempt, report.kind, report.number, pieces, inline)
        return int(script("report")(self._client(size), (), args))

    @translated
    def leave(
        self,
        lane: str,
        machine_id: str,
        *,
        must: bool,
        soon: float = 0.0,
        idle_left: float = 0.0,
        concurrency: int = 1,
        suspends: bool = False,
        reason: str = "",
        read_to: str = "",
        proof: str = "",
    ) -> Stay | None:
        """A worker goes, and hands back what it holds. None: it has left; else it has to stay (unless it must go).

        soon: it stays for calls that are due within so many seconds.
        idle_left: seconds until it has been idle for long enough; before that it may go only if it is spare.
        suspends: it goes to be suspended, and has not been given a turn for that.
        reason: what it holds is lost, not handed back. read_to: of its inbox; it stays for what it has not read.
        proof: of `Trust.vouch`, with which others may start its machine; empty: nobody is to.
        """
        pause = int(SUSPEND_EVERY * 1000) if suspends else 0
        args = (
            self._prefix,
            machine_id,
            int(must),
            int(soon * 1000),
            int(idle_left * 1000),
            concurrency,
            pause,
            reason,
            read_to,
            proof,
        )
        answer = script("leave")(self._redis, self._lane_keys(lane)[:2], args)
        return None if answer == -1 else Stay(int(answer[0]) / 1000, answer[1].decode())

    # Step 9: the watcher, and futures

    def outcomes(self, client: str) -> OutcomeReader:
        """A reader of this client's outcomes."""
        return OutcomeReader(self._blocking, self.address, self._key("outcomes", client), self._records.news)

    @translated
    def attach(self, call_id: str, client: str) -> Attached | None:
        """Let a client hear of a call. None if Redis does not know it."""
        answer = script("attach")(self._redis, (), (self._prefix, call_id, client))
        return self._records.attached(answer) if answer else None

    @translated
    def pointer(self, call_id: str) -> str:
        """Where a call with a key is that was there already under another id; unread until trust has followed it."""
        pointer = if_sound(lambda: self._redis.get(self._key("same", call_id)), b"")
        return (pointer or b"").decode(errors="replace")

    @translated
    def cancel(self, call_ids: Sequence[str]) -> list[str]:
        """Take back the calls that are still queued. Answers within a fraction of a second; those that were."""
        taken = script("cancel")(self._quick, (), (self._prefix, *call_ids))
        return [call_id for call_id, was_queued in zip(call_ids, taken, strict=True) if was_queued]

    @translated
    def kill(self, call_id: str) -> State | None:
        """Have the worker stop a running call; takes back a queued one. Answers its state before that."""
        state = script("kill")(self._quick, (), (self._prefix, call_id))
        return state_of(state) if state else None

    @translated
    def info(self, call_id: str) -> CallInfo | None:
        """How a call stands now. Answers within a fraction of a second."""
        names = ["state", "attempt", "machine", "region", "lane", "name", "queued", "started", "finished"]
        pipe: Any = self._quick.pipeline(transaction=False)
        pipe.hmget(self._key("call", call_id), names).pttl(self._key("call", call_id))
        (state, attempt, machine_id, region, lane, name, *times), left = pipe.execute()
        if not state:
            return None
        stands = state_of(state)
        return CallInfo(
            stands,
            whole(attempt, "attempt", MOST_ATTEMPTS),
            word(machine_id, "machine"),
            word(region, "region"),
            read_times(times),
            time.time() + left / 1000 if stands.final else None,
            word(lane, "lane"),
            name=read_name(name),
        )

    @translated
    def logs(self, call_id: str) -> bytes:
        """The end of what a call has printed."""
        logs: Any = self._quick.hget(self._key("call", call_id), "logs")
        return bytes(logs or b"")

    @translated
    def standing(self, call_ids: Sequence[str]) -> list[bool]:
        """Whether each call is known and has not ended."""
        return list(map(bool, script("standing")(self._redis, (), (self._prefix, *call_ids))))

    @translated
    def drop_outcome(self, outcome: Outcome) -> None:
        """Remove the parts of a large outcome that nobody will ask for again."""
        self._records.drop(name_of(outcome), outcome.sealed)

    @translated
    def drop_item(self, item: Report) -> None:
        """Remove the parts of a large item that has been taken."""
        self._records.drop(name_of(item), item.body)


def _words(machine_id: str, region: str, intake: Intake) -> tuple[str | int, ...]:
    """What claim.lua and finish.lua are told of a worker."""
    return machine_id, region, intake.concurrency, intake.more, intake.free, intake.read_to, intake.to_come
