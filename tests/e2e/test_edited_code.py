"""A module is edited and the program started again, while its local Fly goes on: machines have the new code."""

import subprocess
import sys
import uuid

import pytest

from flyexecutor.local import LocalFly
from tests.local.conftest import Api

SCRIPT = """
import mine
from flyexecutor import FlyMachineExecutor
with FlyMachineExecutor(local={name!r}) as ex:
    print(ex.submit(mine.answer).result(60))
"""


@pytest.fixture
def run(tmp_path):
    name = uuid.uuid4().hex

    def run():
        ran = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(name=name)], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return ran.stdout.strip()

    with LocalFly(name=name, rate_limits=False) as fly:
        run.api = Api(fly)
        yield run
        run.api.session.close()


def test_a_machine_that_rests_has_the_code_that_was_written_meanwhile(run, tmp_path):
    (tmp_path / "mine.py").write_text("def answer():\n    return 1\n")
    assert run() == "1"
    (machine,) = run.api("GET").json()
    assert run.api.wait(machine, "suspended").ok
    assert run() == "1"
    assert run.api.wait(machine, "suspended").ok
    (tmp_path / "mine.py").write_text("def answer():\n    return 22\n")
    assert run() == "22"
    assert [machine["id"]] == [found["id"] for found in run.api("GET").json()]
