"""What a person does inside a running machine: a command beside its program, a look at its processes.

`execute` owns its command's process group and two threads, one that reads and one that waits for the end; all have gone
when it returns. The command ends with its time, and with its machine; what it has put in the background ends with it.
Nothing here changes a machine's state.
"""

import os
import selectors
import shlex
import subprocess
import tempfile
import threading
import time
from typing import Any

import psutil

from flyexecutor.local import processes
from flyexecutor.local.host import Host
from flyexecutor.local.machine import Machine
from flyexecutor.local.problems import Refused

KEPT_BYTES = 1024 * 1024  # of each of a command's two streams; the rest is read and dropped
LONGEST = 3600  # seconds
FIELDS = ("pid", "command", "cpu", "directory", "rss", "rtime", "stime")


def split_command(cmd: str) -> list[str]:
    """The words of a command as older clients send it. Raises Refused for an open quote."""
    try:
        return shlex.split(cmd)
    except ValueError as exc:
        raise Refused(400, f"invalid cmd: {exc}") from None


def execute(host: Host, machine: Machine, command: list[str], stdin: str, timeout: float) -> dict[str, Any]:
    """Run a command in a machine's environment and folder. Answers how it ended and what it wrote.

    timeout: seconds. Raises Refused if the machine isn't started or stops meanwhile, and when the time is over.
    """
    if not command:
        raise Refused(400, "command is required")
    if timeout > LONGEST:
        raise Refused(400, f"invalid_argument: timeout must be at most {LONGEST} seconds")
    main = _pid_of_started(machine, "exec")  # by which a restart shows, however quick
    command, env, cwd = host.process_of(machine, command)
    run = host.run
    try:
        with tempfile.TemporaryFile() as given:
            given.write(stdin.encode(errors="replace"))
            given.seek(0)
            process = processes.start(
                run, command, env=env, cwd=cwd, stdin=given, output=subprocess.PIPE, errors=subprocess.PIPE
            )
    except ValueError as exc:  # a null byte, or half of a character
        raise Refused(400, f"invalid command: {exc}") from None
    except OSError as exc:
        return {"exit_code": 127, "exit_signal": 0, "stdout": "", "stderr": f"{command[0]}: {exc.strerror}\n"}
    with _Output(process) as output:
        waiting = threading.Thread(target=_announce_end, args=(machine, process), daemon=True)
        waiting.start()
        with machine.changed:
            machine.changed.wait_for(lambda: process.returncode is not None or machine.pid != main, timeout)
            ended, machine_ended = process.returncode is not None, machine.pid != main
        processes.end_group(run, process.pid)
        waiting.join()
    if not ended and machine_ended:
        raise Refused(412, f"failed_precondition: machine {machine.id} has stopped, and the command with it")
    if not ended:
        raise Refused(408, f"deadline_exceeded: the command took longer than {timeout} seconds")
    number = max(-process.returncode, 0)
    out, err = (text.decode(errors="replace") for text in output.kept)
    return {"exit_code": 128 + number if number else process.returncode, "exit_signal": number,
            "stdout": out, "stderr": err}  # fmt: skip


def list_processes(machine: Machine) -> list[dict[str, Any]]:
    """A machine's processes as the API shows them. Raises Refused if it isn't started.

    stime is when a process began, rtime how long ago that was, in seconds, cpu the share of that in percent, rss bytes
    [unsure: Fly names no units].
    """
    pid = _pid_of_started(machine, "list processes")
    try:
        main = psutil.Process(pid)
        family = [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    return [shown for process in family if (shown := _show(process))]


def _show(process: psutil.Process) -> dict[str, Any] | None:
    try:
        with process.oneshot():
            used = process.cpu_times()
            running = max(time.time() - process.create_time(), 0.001)
            return {
                "pid": process.pid,
                "command": shlex.join(process.cmdline()) or process.name(),
                "directory": process.cwd(),
                "cpu": int(100 * (used.user + used.system) / running),
                "rss": process.memory_info().rss,
                "rtime": int(running),
                "stime": int(process.create_time()),
                "listen_sockets": _listening(process),
            }
    except psutil.Error:
        return None  # it has just ended


def _listening(process: psutil.Process) -> list[dict[str, str]]:
    try:
        sockets = process.net_connections("tcp")
    except psutil.AccessDenied:  # macOS may not say
        return []
    listening = [socket.laddr for socket in sockets if socket.status == psutil.CONN_LISTEN]
    return [{"proto": "tcp", "address": f"{address.ip}:{address.port}"} for address in listening]


def _pid_of_started(machine: Machine, action: str) -> int:
    """Of its main process. Raises Refused if it isn't started."""
    pid = machine.pid  # asked for once: it may end at any moment, and without a number psutil shows ourselves
    if machine.state != "started" or pid is None:
        raise Refused(412, f"failed_precondition: unable to {action} on machine in current state: '{machine.state}'")
    return pid


def _announce_end(machine: Machine, process: "subprocess.Popen[bytes]") -> None:
    process.wait()
    with machine.changed:
        machine.changed.notify_all()


class _Output:
    """The first bytes of what a process writes. Reads in a thread until it is left, so that no writer has to wait.

    It does not wait for the end of the streams: a daemon that the command leaves behind may keep them open for ever.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout
        assert process.stderr
        self._pipes = (process.stdout, process.stderr)
        self.kept = (bytearray(), bytearray())
        self._leave, self._left = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "_Output":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._left)
        self._thread.join()
        os.close(self._leave)
        for pipe in self._pipes:
            pipe.close()

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._leave, selectors.EVENT_READ)
            for pipe, kept in zip(self._pipes, self.kept, strict=True):
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, kept)
            while True:
                ready = [key for key, _ in selector.select()]
                for key in ready:
                    # All that a pipe holds at once: after the end of the command there is no more to come.
                    if key.data is None:
                        continue
                    read = os.read(key.fd, KEPT_BYTES)
                    key.data.extend(read[: KEPT_BYTES - len(key.data)])
                    if not read:
                        selector.unregister(key.fileobj)
                if any(key.data is None for key in ready):
                    return
