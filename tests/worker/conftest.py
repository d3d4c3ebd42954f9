"""Time that only a test moves, and runners without a process."""

import subprocess
import time

import pytest

from flyexecutor.worker.runner_process import RunnerProcess
from tests.worker.fakes import Clock, FakeProcess


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def start_runner(monkeypatch):
    """Makes runners, each with a process that does what the test says: `runner._process`."""
    monkeypatch.setattr(subprocess, "Popen", FakeProcess)
    return RunnerProcess
