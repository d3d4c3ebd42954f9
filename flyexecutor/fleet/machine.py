"""A machine as the Machines API describes it, and the words by which its metadata says what it is for. Records only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

METADATA_KEY = "flyexecutor"  # machines of ours carry it, with their lane as its value
FAMILY_KEY = "flyexecutor_family"  # the same for lanes that differ in nothing but the tag of their image
OWNER_KEY = "flyexecutor_owner"  # whose machine it is: the same for all who share app, key and Redis
SCHEDULE_KEY = "flyexecutor_schedule"  # the name of the schedule that the machine is for,
SCHEDULE_FUNCTION_KEY = "flyexecutor_schedule_function"  # its function, for people,
SCHEDULE_DIGEST_KEY = "flyexecutor_schedule_digest"  # and all of it: another digest is another schedule
KEEPER_KEY = "flyexecutor_keeper"  # 1: it rests when it has nothing to do, 0: it destroys itself
LAUNCH_KEY = "flyexecutor_launch"  # 0: made to rest, and not to boot before it is started (Fly: skip_launch)
PREPARED_KEY = "flyexecutor_prepared"  # 1: somebody has asked for it in advance (`prepare`)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a machine last ended, from its newest exit event."""

    exit_code: int | None
    signal: int | None  # -1: none
    oom_killed: bool
    at: int  # ms since the epoch
    requested_stop: bool = False  # somebody stopped it

    def __str__(self) -> str:
        if self.oom_killed:
            return "out of memory (oom_killed)"
        if self.requested_stop:
            return "stopped on request"
        if self.signal is not None and self.signal > 0:
            return f"signal {self.signal}"
        return f"exit code {self.exit_code}"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as the Machines API describes it: so many attributes are what we use of that."""

    id: str
    name: str
    state: str
    region: str
    instance_id: str  # changes with each update
    host_status: str
    exit: Exit | None
    lane: str = ""  # from its metadata, as the next two
    family: str = ""
    keeper: bool = False
    created_at: float = 0.0  # seconds since the epoch, by Fly's clock
    changed_at: float = 0.0  # seconds since the epoch, by Fly's clock: when its state changed last
    billed_seconds: float = 0.0  # as far back as its events tell
    guest: Mapping[str, Any] | None = None  # None while its host does not answer
    owner: str = ""  # whose it is: a keyed hash of app and Redis
    schedule: str = ""  # hourly, daily, ...: Fly starts it by itself
    schedule_name: str = ""
    schedule_function: str = ""
    schedule_digest: str = ""
    prepared: bool = False
    launches: bool = True  # once it is created it boots by itself
    last_run: float = 0.0  # seconds that the last of its runs took that have ended; 0: none, or its events do not tell

    @property
    def is_scheduled(self) -> bool:
        """Whether it is a schedule's: then Fly starts it, and nobody else's clean-up ends it. Either word is enough: of
        a machine whose host does not answer Fly tells a part of its configuration.
        """
        return bool(self.schedule or self.schedule_name)
