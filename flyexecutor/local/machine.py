"""One machine: its states, and what changes them.

A lock guards a machine's fields; whoever changes its state wakes those who wait for one. The thread of its program
tells when that has ended, and here is decided what it means: restart policy, auto_destroy. A suspended machine is a
stopped process group: it keeps its memory and its open files, and does nothing. Facts of Fly are from
https://fly.io/docs/machines/ (machine states, restart policy, events, suspend), August 2026.
"""

import hashlib
import math
import secrets
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from flyexecutor.local import states
from flyexecutor.local.config import check_suspendable, parse_signal
from flyexecutor.local.durations import parse_duration
from flyexecutor.local.events import Events, exit_request, new_id, now
from flyexecutor.local.host import Host
from flyexecutor.local.lease import Lease
from flyexecutor.local.problems import Refused
from flyexecutor.local.program import Program
from flyexecutor.local.restarts import WINDOW, Restarts

STOP_TIMEOUT = 5.0  # Fly: kill_timeout
VERSIONS_KEPT = 50


class Machine:
    """A machine of an app, on a host. So many attributes since so much of it is to be seen through the API: a dozen is
    what it shows, the others decide what it may become next, under one lock.
    """

    def __init__(
        self, name: str, region: str, config: dict[str, Any], *, app: str, secrets_: Mapping[str, str], host: Host
    ) -> None:
        self.id = secrets.token_hex(7)
        self.name = name
        self.region = region
        self.config = config
        self.private_ip = f"fdaa:0:1::{secrets.token_hex(2)}"
        self.instance_id = new_id()
        self.versions = deque([(self.instance_id, config)], VERSIONS_KEPT)  # newest first
        self.cordoned = False  # nothing is routed to a machine here, so that it only shows
        self.state = "created"
        self.created_at = self.updated_at = now()
        self._born = time.monotonic()
        self._has_image = False
        self._ended_at = -math.inf  # when its program last has
        self.app = app
        self.secrets = secrets_  # the app's, as they are when it boots
        self.changed = threading.Condition(threading.RLock())
        self._host = host
        self._host_lost = False
        self._turn = 0  # of its state: how often it has changed
        self._stops = 0  # how often it has become `stopped`
        self._program: Program | None = None  # while it has one, running or suspended
        self._edition = b""  # of the code with which that has begun
        self._asked_to_stop = False
        self._restarts = Restarts(host.pace.here(WINDOW))
        self.lease = Lease(self.id)
        self.events = Events()
        self.events.add("launch", "created", "user")
        host.became(self)

    @property
    def pid(self) -> int | None:
        """Of the main process, while it runs."""
        program = self._program  # looked at once: it may end at any moment
        return program.pid if program else None

    def is_hidden(self) -> bool:
        """Whether it is so new that the API does not find it."""
        return time.monotonic() - self._born < self._host.faults.rules.invisible

    def describe(self) -> dict[str, Any]:
        """The machine as the API shows it."""
        with self.changed:
            return {
                "id": self.id,
                "name": self.name,
                "state": self.state,
                "region": self.region,
                "instance_id": self.instance_id,
                "version": self.instance_id,
                "private_ip": self.private_ip,
                "incomplete_config" if self._host_lost else "config": self.config,
                "image_ref": _image_ref(self.config["image"]),
                "created_at": self.created_at,
                "updated_at": self.updated_at,
                "events": self.events.newest_first(),
                "checks": [],
                "host_status": "unreachable" if self._host_lost else "ok",
                "cordoned": self.cordoned,
                **({"nonce": self.lease.nonce} if self.lease.nonce else {}),
            }

    def fetch_image(self, *, launch: bool) -> None:
        """Once after its creation: it can't be started before its image is there. Then it boots, or comes to rest."""

        def go_on() -> None:
            self._has_image = True
            if launch:
                self._boot("user")
            elif not self._host.faults.rules.stays_created:
                self._become("stopped", "launch", "flyd")

        with self.changed:
            if self.state == "created":  # else somebody was quick to destroy it
                self._after("image", go_on)

    # What a user asks for

    def start(self, *, source: str = "user", again: bool = False) -> str:
        """Start or resume it. Answers the state before. again: it has just run, and has its room."""
        with self.changed:
            before = self.state
            if before == "started":
                return before
            self._check("start")
            if before == "stopped" and not again:
                if time.monotonic() - self._ended_at < self._host.faults.rules.still_active:
                    raise Refused(*states.STILL_ACTIVE)
                self._host.faults.check_room(self.region)
            self._asked_to_stop = False
            self._restarts.forget()
            if self._program and before == "suspended" and self._edition != self._host.edition(self):
                self._program.kill()  # what is in its memory is no longer what somebody has just written
                self.changed.wait_for(lambda: self._program is None)
                return self.start(source=source)
            # A process that has died while it was suspended is a snapshot that Fly has dropped: a cold boot.
            if self._program:
                self._resume(self._program)
            else:
                self._boot(source)
            return before

    def stop(self, signal_name: str | None = None, timeout: float | None = None) -> None:
        """Ask it to stop: the signal, then SIGKILL after `timeout` seconds."""
        configured = self.config.get("stop_config", {})
        number = parse_signal(signal_name or configured.get("signal") or "SIGINT")
        patience = timeout if timeout is not None else parse_duration(configured.get("timeout"), STOP_TIMEOUT)
        with self.changed:
            if self.state in {"stopped", "stopping"}:
                return
            self._check("stop")
            self._asked_to_stop = True
            before = self.state
            program = self._program
            self._become("stopping", "stop", "user")
            if self._host.seconds_of("stop") == math.inf:
                return
            if program is None:
                self._stopped("stop")
        if program and before == "suspended":
            program.kill()  # Fly drops the snapshot: no handler runs
        elif program:
            program.ask_to_end(number, patience)
            if before == "starting":
                program.resume()  # was about to be: shall see the signal

    def suspend(self) -> None:
        """Stop all its processes where they are. Returns when they have stopped, so that a program that asks for its
        own suspension reads the answer only after it has been resumed. [unsure of Fly's answer: see sockets.py]
        """
        with self.changed:
            self._check("suspend")
            assert self._program
            check_suspendable(self.config, self._host.faults.rules.suspend_mb)
            self._become("suspending", "suspend", "user")
            if self._program.pause():  # else _ended hears of it
                self._after("suspend", lambda: self._become("suspended", "suspend", "flyd"))

    def send_signal(self, name: str | int) -> None:
        """Send a signal to its main process."""
        number = parse_signal(name)
        with self.changed:
            self._check("signal")
            assert self._program
            self._program.send(number)

    def restart(self, signal_name: str | None, timeout: float | None) -> None:
        """Stop, then start."""
        with self.changed:
            stops = self._stops
        self.stop(signal_name, timeout)
        with self.changed:
            # Somebody else may start it before we see that it has stopped: then it has been restarted.
            self.changed.wait_for(lambda: self.state in {"stopped", "destroyed"} or self._stops > stops, 60.0)
            if self.state == "stopped":
                self.start(again=True)
            elif self._stops == stops or self.state == "destroyed":
                text = f"machine failed to reach desired state, stopped, currently {self.state}"
                raise Refused(408, f"deadline_exceeded: {text}")

    def update(self, config: dict[str, Any], *, launch: bool, current_version: str | None = None) -> None:
        """Give it a new configuration, and with it a new instance; a machine that has started is started again.

        current_version: of which this is an update; None: of whichever there is.
        """
        with self.changed:
            before = self.state
            if current_version not in {None, "", self.instance_id}:
                text = f"current_version is {current_version}, the machine has {self.instance_id}"
                raise Refused(409, f"aborted: {text}")
            self._check("update")
            self._become("replacing" if before == "started" else "updating", "update", "user")
            self._asked_to_stop = True
            program = self._program
        if program:
            if before == "suspended":
                program.kill()  # Fly drops the snapshot
            else:
                program.ask_to_end(signal.SIGINT, STOP_TIMEOUT)
        with self.changed:
            self.changed.wait_for(lambda: self._program is None)  # SIGKILL ends it in any case
            self.check_host("update")
            if self.state not in {"replacing", "updating"}:
                raise states.refuse("update", self.state)  # destroyed meanwhile
            self.config = config
            self.instance_id = new_id()
            self.versions.appendleft((self.instance_id, config))
            self._asked_to_stop = False
            # Fly: who was not started before an update is left stopped, with skip_launch or without.
            if launch and before == "started":
                self._boot("user")
            else:
                self._become("created" if before == "created" else "stopped", "update", "user")

    def change_metadata(self, changes: Mapping[str, str | None], *, version: str | None = None) -> None:
        """Set keys of its metadata, or remove those that become None. Makes no new version.

        Raises Refused if the machine has another version than the one told.
        """
        with self.changed:
            if version not in {None, "", self.instance_id}:
                raise Refused(412, f"machine_version is {version}, the machine has {self.instance_id}")
            metadata = {**(self.config.get("metadata") or {}), **changes}
            # A new configuration, not a change of the old one: others may just be reading that.
            self.config = {**self.config, "metadata": {key: to for key, to in metadata.items() if to is not None}}

    def destroy(self, *, force: bool) -> None:
        """Remove it; a machine that runs only by force."""
        with self.changed:
            if self.state in {"destroyed", "destroying"}:
                return
            if not force:
                states.check("destroy", self.state)
            self._become("destroying", "destroy", "user")
            if self._program:
                self._program.kill()  # _ended hears of it
            else:
                self._become("destroyed", "destroy", "flyd")

    def lose_host(self) -> None:
        """Its computer is gone, and all its processes; its state stays what it was."""
        with self.changed:
            self._host_lost = True
            self._turn += 1  # nothing that was under way happens any more
            if self._program:
                self._program.kill()

    def check_host(self, action: str) -> None:
        """Refuse an action on a machine whose host is lost. [unsure: which of both Fly answers; clients meet both]"""
        if self._host_lost:
            raise Refused(412 if action == "start" else 503, f"machine {self.id} is on a host that is unreachable")

    def _check(self, action: str) -> None:
        """Raises Refused if it does not take an action now."""
        self.check_host(action)
        states.check(action, self.state)
        if not self._has_image:
            raise states.refuse(action, self.state)

    # Its program

    def _boot(self, source: str) -> None:
        self._become("starting", "start", source)
        self._after("boot", self._launch)

    def _launch(self) -> None:
        try:
            self._edition = self._host.edition(self)  # before it reads the first line of it
            self._program = Program(self._host, self)
        except (OSError, ValueError, Refused) as exc:  # no such program; a null byte in its words; files that can't be
            self.events.add("exit", "failed", "flyd", {"error": str(exc)})
            self._become("failed", "start", "flyd")
            return
        self._become("started", "start", "flyd")
        self._program.watch(self._ended)

    def _resume(self, program: Program) -> None:
        def go_on() -> None:
            self._become("started", "start", "flyd")  # first: the program shall see itself started
            program.resume()

        self._become("starting", "start", "user")
        self._after("resume", go_on)

    def _after(self, change: str, do: Callable[[], None]) -> None:
        """End a passing state when its time is over, unless something else has changed it meanwhile."""
        seconds, turn = self._host.seconds_of(change), self._turn
        if not seconds:
            do()
        elif seconds < math.inf:
            timer = threading.Timer(seconds, self._end_of, (turn, do))
            timer.daemon = True
            timer.start()

    def _end_of(self, turn: int, do: Callable[[], None]) -> None:
        with self.changed:
            if self._turn == turn:
                do()

    def _ended(self, code: int) -> None:
        """What the end of its program means."""
        with self.changed:
            program, self._program = self._program, None
            self._ended_at = time.monotonic()
            self.changed.notify_all()  # an update waits for that
            if self._host_lost or not program:
                return  # nobody is there to tell
            again = self.state == "started" and self._restarts.follows(self.config.get("restart", {}), code)
            request = exit_request(
                code,
                oom_killed=program.oom_killed,
                requested_stop=self._asked_to_stop,
                restarting=again,
                restart_count=self._restarts.count(),
            )
            if self.state == "destroying":
                self.events.add("exit", "stopped", "flyd", request)
                self._become("destroyed", "destroy", "flyd")
            elif self.state == "suspended":
                pass  # its snapshot is lost, and nobody notices before the next start
            elif again:
                self._restarts.note()
                self.events.add("exit", "stopped", "flyd", request)
                self._become("restarting", "restart", "flyd")
                self._boot("flyd")
            elif self.state in {"replacing", "updating"}:
                self.events.add("exit", "stopped", "flyd", request)  # the update goes on: no end, no auto_destroy
            else:
                self._stopped("exit", request)

    def _stopped(self, event: str, request: Mapping[str, Any] | None = None) -> None:
        """It is done: by an exit, or because it was told to stop, which destroys a machine with auto_destroy, too."""
        self._become("stopped", event, "flyd", request)
        if self.config.get("auto_destroy"):
            self._become("destroying", "destroy", "flyd")
            self._become("destroyed", "destroy", "flyd")

    def _become(self, state: str, event: str, source: str, request: Mapping[str, Any] | None = None) -> None:
        if state not in states.NEXT.get(self.state, ()):
            raise AssertionError(f"machine {self.id}: no way from {self.state} to {state}")
        self.state = state
        self._turn += 1
        self._stops += state == "stopped"
        self.updated_at = now()
        self.events.add(event, state, source, request)
        self._host.became(self)
        self.changed.notify_all()


def _image_ref(image: str) -> dict[str, Any]:
    registry, _, rest = image.partition("/")
    repository, _, tag = rest.partition(":")
    digest = f"sha256:{hashlib.sha256(image.encode()).hexdigest()}"  # of its name: here is no content to tell it from
    return {"registry": registry, "repository": repository, "tag": tag or "latest", "digest": digest, "labels": {}}
