"""One life of a machine's main process, with all that it has started: their signals, their memory, their end.

Owns its process group, a thread that waits for the end and tells it, and one for each time that it is asked to end,
which kills what does not. All end with the process. Knows no state of its machine.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Callable

from flyexecutor.local import files, processes
from flyexecutor.local.config import memory_mb
from flyexecutor.local.host import Host, Hosted
from flyexecutor.local.memory import MemoryLimit


class Program:
    """Starts it, with the machine's files in place. Raises OSError, ValueError or Refused when that can't be."""

    def __init__(self, host: Host, machine: Hosted) -> None:
        self.oom_killed = False  # the main process, not another
        self._run = host.run
        self._id = machine.id
        self._memory = memory_mb(machine.config)
        self._limit: MemoryLimit | None = None
        files.write_files(files.folder_of(host.run, machine.id), machine.config.get("files", ()), machine.secrets)
        command, env, cwd = host.process_of(machine)
        output = host.output(machine)
        try:
            self._process = processes.start(host.run, command, env=env, cwd=cwd, output=output)
        finally:
            os.close(output)

    @property
    def pid(self) -> int:
        """Of the main process."""
        return self._process.pid

    def watch(self, ended: Callable[[int], None]) -> None:
        """Tell the end of the main process, with its exit code as Popen has it, once no other is left."""
        if self._memory:
            self._limit = MemoryLimit(self.pid, self._memory * 1024 * 1024, self._note_oom)
        threading.Thread(target=self._watch, args=(ended,), name=f"machine {self._id}", daemon=True).start()

    def send(self, number: int) -> None:
        """Send a signal to the main process."""
        self._process.send_signal(number)

    def ask_to_end(self, number: int, patience: float) -> None:
        """A signal, and after `patience` seconds SIGKILL. Returns at once."""
        self.send(number)
        threading.Thread(target=self._kill_later, args=(patience,), daemon=True).start()

    def kill(self) -> None:
        """End all processes, whatever they do."""
        processes.end_group(self._run, self.pid)

    def pause(self) -> bool:
        """Stop all processes where they are; False if the main one has ended instead."""
        paused = processes.pause_group(self.pid)
        if paused and self._limit:
            self._limit.pause()
        return paused

    def resume(self) -> None:
        """Let them go on."""
        if self._limit:
            self._limit.resume()
        processes.resume_group(self.pid)

    def _watch(self, ended: Callable[[int], None]) -> None:
        code = self._process.wait()
        if self._limit:
            self._limit.end()
        self.kill()  # a machine's end takes all its processes with it
        ended(code)

    def _note_oom(self, pid: int) -> None:
        self.oom_killed = self.oom_killed or pid == self.pid

    def _kill_later(self, patience: float) -> None:
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
