import subprocess
import sys

import pytest

import flyexecutor


def test_all_is_what_can_be_imported():
    for name in flyexecutor.__all__:
        assert getattr(flyexecutor, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        flyexecutor.Nothing  # noqa: B018


def test_dir_and_tab_completion_show_what_was_not_imported_yet():
    script = """
import rlcompleter, flyexecutor, sys
assert "flyexecutor.executor" not in sys.modules
print(*dir(flyexecutor))
sys.modules["tqdm"] = None  # what is not installed
complete = rlcompleter.Completer({"flyexecutor": flyexecutor}).complete
print(*iter(lambda n=iter(range(1000)): complete("flyexecutor.", next(n)), None))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    shown, completed = ran.stdout.splitlines()
    assert {name for name in shown.split() if not name.startswith("__")} == set(flyexecutor.__all__)
    assert {one.rstrip("()") for one in completed.split()} == {f"flyexecutor.{name}" for name in flyexecutor.__all__}


def test_every_error_of_ours_is_public():
    errors = {
        name for name, kind in vars(flyexecutor.errors).items() if isinstance(kind, type) and name != "BrokenExecutor"
    }
    assert errors <= set(flyexecutor.__all__)


@pytest.mark.parametrize(
    ("module", "not_loaded"),
    [
        ("flyexecutor.worker.runner", {"redis", "requests", "flask"}),
        ("flyexecutor.worker.__main__", {"redis", "requests", "flask", "cloudpickle"}),
        ("flyexecutor", {"redis", "requests", "flask", "cloudpickle"}),
        ("flyexecutor.executor", {"flask", "click"}),
    ],
)
def test_a_module_loads_no_more_than_it_needs(module, not_loaded):
    script = f"import {module}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not_loaded.isdisjoint(loaded)
