"""One machine: its states, and the process that it is.

A lock guards a machine's fields; whoever changes its state wakes those who wait for one. A thread per running machine
waits for its process and decides what its end means: restart policy, auto_destroy. Facts of Fly are from
https://fly.io/docs/machines/ (machine states, restart policy, events), August 2026.
"""

import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flyexecutor.local import processes
from flyexecutor.local.memory import MemoryLimit
from flyexecutor.local.problems import Refused

NEXT = {
    "created": {"starting", "destroying", "updating"},
    "starting": {"started", "stopped", "failed", "destroying"},
    "started": {"stopping", "stopped", "restarting", "destroying", "replacing"},
    "stopping": {"stopped", "destroying"},
    "restarting": {"starting", "stopped", "destroying"},
    "replacing": {"starting", "stopped", "destroying"},
    "updating": {"starting", "stopped", "created", "destroying"},
    "stopped": {"starting", "destroying", "updating"},
    "failed": {"starting", "destroying"},
    "destroying": {"destroyed"},
}  # a state without an entry is final
DEFAULT_RETRIES = 10  # Fly: of on-failure
STOP_TIMEOUT = 5.0  # Fly: kill_timeout
EVENTS_KEPT = 50


class Machine:
    """A machine of an app, which says what to run and where its output goes."""

    def __init__(
        self,
        name: str,
        region: str,
        config: dict[str, Any],
        *,
        run: Path,
        output: Callable[["Machine"], int],
        launch: Callable[["Machine"], tuple[list[str], dict[str, str], str]],
    ) -> None:
        self.id = secrets.token_hex(7)
        self.name = name
        self.region = region
        self.config = config
        self.private_ip = f"fdaa:0:1::{secrets.token_hex(2)}"
        self.instance_id = _new_instance()
        self.state = "created"
        self.created_at = self.updated_at = _now()
        self.events: list[dict[str, Any]] = []
        self.changed = threading.Condition(threading.RLock())
        self._run = run
        self._output = output
        self._launch = launch
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_to_stop = False
        self._oom_killed = False  # its main process, in this life
        self._restarts = 0
        self._lease: tuple[str, float, str] | None = None  # nonce, expiry, description
        self._event("launch", "created", "user")

    @property
    def pid(self) -> int | None:
        """Of the main process, while it runs."""
        return self._process.pid if self._process else None

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
                "config": self.config,
                "image_ref": _image_ref(self.config["image"]),
                "created_at": self.created_at,
                "updated_at": self.updated_at,
                "events": list(self.events),
                "checks": [],
                "host_status": "ok",
                **({"nonce": self._lease[0]} if self._lease and self._leased() else {}),
            }

    # What a user asks for

    def start(self) -> str:
        """Start it. Answers the state before."""
        with self.changed:
            before = self.state
            if before in {"started", "starting"}:
                return before
            if before not in {"created", "stopped", "failed"}:
                raise Refused(412, f"unable to start machine from current state: '{before}'")
            self._asked_to_stop = False
            self._restarts = 0
            self._boot("user")
            return before

    def stop(self, signal_name: str | None = None, timeout: float | None = None) -> None:
        """Ask it to stop: the signal, then SIGKILL after `timeout` seconds."""
        configured = self.config.get("stop_config") or {}
        number = parse_signal(signal_name or configured.get("signal") or "SIGINT")
        patience = timeout if timeout is not None else parse_duration(configured.get("timeout"), STOP_TIMEOUT)
        with self.changed:
            if self.state in {"stopped", "stopping", "created"}:
                return
            if self.state not in {"started", "starting"}:
                raise Refused(412, f"unable to stop machine from current state: '{self.state}'")
            self._asked_to_stop = True
            self._become("stopping", "stop", "user")
            process = self._process
        if process:
            _send(process, number)
            threading.Thread(target=self._kill_later, args=(process, patience), daemon=True).start()

    def send_signal(self, name: str | int) -> None:
        """Send a signal to its main process."""
        number = parse_signal(name)
        with self.changed:
            if self.state != "started" or self._process is None:
                raise Refused(412, f"unable to signal machine in current state: '{self.state}'")
            _send(self._process, number)

    def restart(self, signal_name: str | None, timeout: float | None) -> None:
        """Stop, then start."""
        self.stop(signal_name, timeout)
        if not self.wait({"stopped"}, 60.0):
            raise Refused(408, f"machine failed to reach desired state, stopped, currently {self.state}")
        self.start()

    def update(self, config: dict[str, Any], *, launch: bool) -> None:
        """Give it a new configuration, and with it a new instance; a running machine restarts."""
        with self.changed:
            before = self.state
            if before not in {"created", "stopped", "started"}:
                raise Refused(412, f"unable to update machine from current state: '{before}'")
            self._become("replacing" if before == "started" else "updating", "update", "user")
            self._asked_to_stop = True
            process = self._process
        if process:
            _send(process, signal.SIGINT)
            self._kill_later(process, STOP_TIMEOUT)
            self.wait({"stopped"}, STOP_TIMEOUT + 10)
        with self.changed:
            self.config = config
            self.instance_id = _new_instance()
            self._asked_to_stop = False
            if launch:
                self._boot("user")
            elif self.state == "updating":
                self._become(before, "update", "user")

    def destroy(self, *, force: bool) -> None:
        """Remove it; a machine that runs only by force."""
        with self.changed:
            if self.state in {"destroyed", "destroying"}:
                return
            if not force and self.state not in {"stopped", "created", "failed"}:
                raise Refused(412, f"unable to destroy machine, not in stopped state, currently {self.state}")
            self._become("destroying", "destroy", "user")
            if self._process:
                processes.end_group(self._run, self._process.pid)  # _watch sees its end
            else:
                self._become("destroyed", "destroy", "flyd")

    def wait(self, states: set[str], timeout: float) -> bool:
        """Wait for one of the states; False when the time is over or none can be reached any more."""
        with self.changed:
            self.changed.wait_for(lambda: self.state in states or self.state == "destroyed", timeout)
            return self.state in states

    # Leases

    def lease(self, ttl: float, description: str, nonce: str | None) -> dict[str, Any]:
        """Take or refresh the lease."""
        with self.changed:
            if self._leased() and self._lease and self._lease[0] != nonce:
                raise Refused(409, "lease currently held by another owner")
            held = nonce if self._leased() and nonce else secrets.token_hex(8)
            self._lease = (held, time.time() + ttl, description)
            return self.lease_data()

    def lease_data(self) -> dict[str, Any]:
        """The lease as the API shows it."""
        with self.changed:
            if not self._leased() or self._lease is None:
                raise Refused(404, "lease not found")
            nonce, expires_at, description = self._lease
            return {
                "nonce": nonce,
                "expires_at": int(expires_at),
                "owner": "local",
                "description": description,
                "version": self.instance_id,
            }

    def release(self, nonce: str | None) -> None:
        """Give the lease back."""
        self.check_lease(nonce)
        with self.changed:
            self._lease = None

    def check_lease(self, nonce: str | None) -> None:
        """Refuse a change by somebody who does not hold the lease."""
        with self.changed:
            if self._leased() and self._lease and self._lease[0] != nonce:
                raise Refused(
                    409, f"machine ID {self.id} lease currently held by local, expires at {self._lease[1]:.0f}"
                )

    def _leased(self) -> bool:
        return self._lease is not None and self._lease[1] > time.time()

    # The process

    def _boot(self, source: str) -> None:
        self._become("starting", "start", source)
        command, env, cwd = self._launch(self)
        try:
            output = self._output(self)
            self._process = processes.start(self._run, command, env=env, cwd=cwd, output=output)
            os.close(output)
        except OSError as exc:
            self._event("exit", "failed", "flyd", {"error": str(exc)})
            self._become("failed", "start", "flyd")
            return
        self._oom_killed = False
        self._become("started", "start", "flyd")
        threading.Thread(target=self._watch, args=(self._process,), name=f"machine {self.id}", daemon=True).start()

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        """What the end of the process means."""
        memory_mb = (self.config.get("guest") or {}).get("memory_mb")
        limit = MemoryLimit(process.pid, memory_mb * 1024 * 1024, self._note_oom) if memory_mb else None
        code = process.wait()
        if limit:
            limit.end()
        processes.end_group(self._run, process.pid)  # a machine's end takes all its processes with it
        with self.changed:
            self._process = None
            policy = self.config.get("restart") or {}
            again = self.state == "started" and self._restarts_after(policy, code)
            request = self._exit_request(code, restarting=again)
            if self.state == "destroying":
                self._event("exit", "stopped", "flyd", request)
                self._become("destroyed", "destroy", "flyd")
            elif again:
                self._restarts += 1
                self._event("exit", "stopped", "flyd", request)
                self._become("restarting", "restart", "flyd")
                self._boot("flyd")
            else:
                self._become("stopped", "exit", "flyd", request)
                if self.config.get("auto_destroy"):
                    self._become("destroying", "destroy", "flyd")
                    self._become("destroyed", "destroy", "flyd")

    def _note_oom(self, pid: int) -> None:
        with self.changed:
            self._oom_killed = self._oom_killed or pid == self.pid

    def _restarts_after(self, policy: Mapping[str, Any], code: int) -> bool:
        kind = policy.get("policy") or "on-failure"  # Fly: the default when unset
        if self._asked_to_stop or kind == "no":
            return False
        if kind == "always":
            return True
        return code != 0 and self._restarts < int(policy.get("max_retries") or DEFAULT_RETRIES)

    def _exit_request(self, code: int, *, restarting: bool) -> dict[str, Any]:
        number = -code if code < 0 else -1
        return {
            "exit_event": {
                "exit_code": 128 + number if code < 0 else code,
                "guest_exit_code": 0 if code < 0 else code,
                "guest_signal": number,
                "signal": number,
                "oom_killed": self._oom_killed,
                "requested_stop": self._asked_to_stop,
                "restarting": restarting,
                "exited_at": _now(),
            },
            "restart_count": self._restarts,
        }

    def _kill_later(self, process: "subprocess.Popen[bytes]", patience: float) -> None:
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            _send(process, signal.SIGKILL)

    def _become(self, state: str, event: str, source: str, request: Mapping[str, Any] | None = None) -> None:
        if state not in NEXT.get(self.state, ()):
            raise AssertionError(f"machine {self.id}: no way from {self.state} to {state}")
        self.state = state
        self.updated_at = _now()
        self._event(event, state, source, request)
        self.changed.notify_all()

    def _event(self, kind: str, status: str, source: str, request: Mapping[str, Any] | None = None) -> None:
        event: dict[str, Any] = {
            "id": secrets.token_hex(8),
            "type": kind,
            "status": status,
            "source": source,
            "timestamp": time.time_ns() // 1_000_000,
        }
        if request:
            event["request"] = dict(request)
        self.events.insert(0, event)
        del self.events[EVENTS_KEPT:]


def parse_signal(name: str | int) -> int:
    """A signal by name or number."""
    try:
        if isinstance(name, int):
            return signal.Signals(name)
        return signal.Signals(int(name)) if name.isdigit() else signal.Signals[name]
    except (ValueError, KeyError):
        raise Refused(400, f"invalid signal {name!r}") from None


def parse_duration(told: object, default: float) -> float:
    """Seconds of "10s", "1m", 10 or a number of nanoseconds as Go's client sends them."""
    if told is None or told == "":
        return default
    try:
        if isinstance(told, int | float) and not isinstance(told, bool):
            return told / 1e9 if told >= 1e6 else float(told)
        text = str(told)
        factor = {"ms": 0.001, "s": 1.0, "m": 60.0}
        unit = next((unit for unit in ("ms", "s", "m") if text.endswith(unit)), "")
        return float(text.removesuffix(unit)) * factor.get(unit, 1.0)
    except ValueError:
        raise Refused(400, f"invalid duration {told!r}") from None


def _send(process: "subprocess.Popen[bytes]", number: int) -> None:
    if number == signal.SIGKILL:
        process.kill()
    else:
        process.send_signal(number)


def _new_instance() -> str:
    return "01" + secrets.token_hex(12).upper()


def _image_ref(image: str) -> dict[str, Any]:
    registry, _, rest = image.partition("/")
    repository, _, tag = rest.partition(":")
    return {"registry": registry, "repository": repository, "tag": tag or "latest", "digest": "", "labels": {}}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
