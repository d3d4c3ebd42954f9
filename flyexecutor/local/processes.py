"""Processes of this computer that stand for machines, and how to be sure that none stays behind.

Each process that the server starts leads a process group and has a file in the run folder with the group's number, so
that guard or server can end all of them although the other, who started them, is gone.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO


def start(
    run: Path,
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    stdin: "IO[bytes] | int" = subprocess.DEVNULL,
    output: int | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a process with a group of its own. Raises OSError if there is no such program."""
    process = subprocess.Popen(
        command,
        env=dict(env),
        cwd=cwd,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        start_new_session=True,
    )
    (run / f"{process.pid}.group").touch()
    return process


def end_group(run: Path, pid: int) -> None:
    """Kill what is left of a group; its leader has ended or is to end now."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    (run / f"{pid}.group").unlink(missing_ok=True)


def clean_up(run: Path) -> None:
    """End every group of the run folder, then remove the folder. May be called twice."""
    for file in run.glob("*.group"):
        end_group(run, int(file.stem))
    shutil.rmtree(run, ignore_errors=True)
