"""Processes of this computer that stand for machines, and how to be sure that none stays behind.

Each process that the server starts leads a process group and has a file in the run folder with the group's number, so
that guard or server can end all of them although the other, who started them, is gone. A lock lets nobody start one
that a clean-up has not seen: a machine whose restart policy answers to being killed by it.
"""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

PAUSE_TIMEOUT = 0.2

_starting = threading.Lock()
_ended: set[Path] = set()  # run folders


def start(
    run: Path,
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    stdin: "IO[bytes] | int" = subprocess.DEVNULL,
    output: int | None = None,
    errors: int = subprocess.STDOUT,
) -> "subprocess.Popen[bytes]":
    """Start a process with a group of its own. Raises OSError if there is no such program, or everything ends."""
    with _starting:
        if run in _ended:
            raise OSError("the local Fly ends")
        process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=cwd,
            stdin=stdin,
            stdout=output,
            stderr=errors if output is not None else None,
            start_new_session=True,
        )
        try:
            (run / f"{process.pid}.group").touch()
        except OSError:  # a full disk: what nobody could find again must not stay
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
            raise
    return process


def pause_group(pid: int) -> bool:
    """Stop all processes of a group where they are; False if the leader, our child, has ended instead."""
    if not _signal_group(pid, signal.SIGSTOP):
        return False
    # A process with threads stops a moment after the signal, which is waited for. But one whose child was stopped
    # between vfork and exec stops after the resume only: a wait without a limit would hold the machine for ever.
    for _ in range(int(PAUSE_TIMEOUT / 0.001)):
        stopped = _is_stopped(pid)
        if stopped is not None:
            return stopped
        time.sleep(0.001)
    return True


def resume_group(pid: int) -> None:
    """Let a paused group go on."""
    _signal_group(pid, signal.SIGCONT)


def end_group(run: Path, pid: int) -> None:
    """Kill what is left of a group; its leader has ended or is to end now."""
    _signal_group(pid, signal.SIGKILL)
    (run / f"{pid}.group").unlink(missing_ok=True)


def _signal_group(pid: int, number: int) -> bool:
    """Whether there was somebody to have the signal."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):  # EPERM: of macOS, where only zombies are left
        return False
    return True


def _is_stopped(pid: int) -> bool | None:
    """Whether a child has stopped (True), has ended (False) or neither yet. Leaves its end to whoever waits for it."""
    if not hasattr(os, "waitid"):  # macOS has it since Python 3.13
        import psutil  # noqa: PLC0415 - where there is waitid, who starts this module needs it not

        try:
            status = psutil.Process(pid).status()
        except psutil.NoSuchProcess:
            return False
        return {psutil.STATUS_STOPPED: True, psutil.STATUS_ZOMBIE: False}.get(status)
    try:
        seen = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:
        return False
    return None if seen is None else seen.si_code == os.CLD_STOPPED


def clean_up(run: Path) -> None:
    """End every group of the run folder and remove it; no other is started there. May be called twice."""
    with _starting:
        _ended.add(run)
        groups = [int(file.stem) for file in run.glob("*.group")]
        for pid in groups:
            _signal_group(pid, signal.SIGSTOP)  # first all: none shall see another end, and complain of it
        for pid in groups:
            end_group(run, pid)
    shutil.rmtree(run, ignore_errors=True)
