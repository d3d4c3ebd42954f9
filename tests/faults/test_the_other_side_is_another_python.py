"""Another Python version on the other side: told before anything is unpickled, with what differs."""

import sys

from flyexecutor import PythonMismatchError
from flyexecutor.payload import packages
from tests import tasks

WAIT = 30.0


def test_a_call_of_another_python_is_refused_and_the_versions_are_named(executor, monkeypatch, tmp_path):
    ours = sys.version_info
    monkeypatch.setattr("flyexecutor.payload.trust.sys.version_info", (3, 8, 0))
    future = executor.submit(tasks.append_line, tmp_path / "ran", "x")
    monkeypatch.setattr("flyexecutor.payload.trust.sys.version_info", ours)
    error = future.exception(WAIT)
    assert isinstance(error, PythonMismatchError)
    assert "pickled by Python 3.8" in str(error)
    assert f"Python {ours[0]}.{ours[1]}" in str(error)
    assert not (tmp_path / "ran").exists()


def test_the_packages_that_differ_are_listed(executor, monkeypatch):
    real = sys.version_info
    monkeypatch.setattr("flyexecutor.payload.trust.sys.version_info", (3, 8, 0))
    future = executor.submit(tasks.increment, 1)
    monkeypatch.setattr("flyexecutor.payload.trust.sys.version_info", real)
    monkeypatch.setattr("flyexecutor.payload.packages.installed", lambda: {"Python": "3.8.0", "numpy": "1.0"})
    lines = str(future.exception(WAIT)).splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["package", "here"], ["Python", "3.8.0"]]
    assert ["numpy", "1.0"] in [line.split()[:2] for line in lines]


def test_the_table_begins_with_what_both_sides_have_and_is_bounded():
    here = {"Python": "3.8.0", "ours": "1.0", "same": "2.0"}
    there = {**{f"theirs{n}": "1" for n in range(50)}, "Python": "3.12.1", "same": "2.0"}
    lines = [line.split() for line in packages.differences(here, there).splitlines()]
    assert lines[:3] == [["package", "here", "machine"], ["Python", "3.8.0", "3.12.1"], ["ours", "1.0", "-"]]
    assert lines[-1] == ["and", "12", "more"]
    assert packages.differences(packages.installed(), packages.installed()) == ""
