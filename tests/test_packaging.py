"""The wheel: it holds the package alone, and installs with three dependencies."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: a build writes into its source, where another process may build too.
    source = shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(".*", "build", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source]
    subprocess.run(command, check=True, timeout=100)
    (built,) = folder.glob("flyexecutor-*.whl")
    return built


def test_the_wheel_holds_flyexecutor_alone_with_its_scripts_and_types(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"flyexecutor"}
    assert "flyexecutor/py.typed" in names
    assert {f"flyexecutor/lua/{script.name}" for script in (ROOT / "flyexecutor/lua").iterdir()} <= set(names)


def test_the_wheel_needs_only_requests_redis_and_cloudpickle(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        lines = archive.read(metadata).decode().splitlines()
    needed = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert sorted(line.split()[1].split(">")[0] for line in needed) == ["cloudpickle", "redis", "requests"]
