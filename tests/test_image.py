"""The image of the machines: what is installed into it is named by version and hash, for both processors."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from uv import find_uv_bin

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "worker" / "requirements.txt"
DOCKERFILE = (ROOT / "worker" / "Dockerfile").read_text()


def locked():
    """Each requirement as it stands in the lock, on one line, hashes too."""
    lines = LOCK.read_text().replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def test_each_package_has_its_version_and_its_hashes_and_nothing_says_where_it_comes_from():
    assert len(locked()) > 20
    for line in locked():
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+( +--hash=sha256:[0-9a-f]{64})+ *", line), line
    assert "://" not in LOCK.read_text()


def test_the_lock_has_what_this_project_and_its_demo_ask_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["demo"], "setuptools>=77"]
    versions = dict(line.split()[0].split("==") for line in locked())
    for requirement in map(Requirement, asked):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, "run make lock"


@pytest.mark.timeout(480)  # a registry may be slow
@pytest.mark.parametrize("processor", ["x86_64", "aarch64"])
def test_the_image_s_python_gets_all_of_it_with_these_hashes_on_each_processor(processor, tmp_path):
    (python,) = re.findall(r"^ARG BASE=python:(3\.\d+)-slim$", DOCKERFILE, re.M)
    target = [f"--python-version={python}", f"--python-platform={processor}-manylinux_2_28", f"--target={tmp_path}"]
    command = [find_uv_bin(), "pip", "install", "--quiet", "--require-hashes", "--only-binary=:all:", *target]
    subprocess.run([*command, "--requirement", LOCK], check=True)
    assert len(list(tmp_path.glob("*.dist-info"))) == len(locked())


def test_the_image_fetches_what_is_locked_and_nothing_else():
    packages, project = [set(command.split()) for command in re.findall(r"pip install (.*)", DOCKERFILE)]
    assert {"--require-hashes", "--only-binary=:all:"} <= packages, "no code of a package runs while it is installed"
    assert {"--no-index", "--no-deps", "--no-build-isolation"} <= project


def test_what_the_image_copies_is_let_through_to_the_builder():
    let_through = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.M)
    for sources in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.M):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert source.split("/")[0] in let_through
