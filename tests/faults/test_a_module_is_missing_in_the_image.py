"""Module missing in the image: clear error naming the module, and the remedy; `ship` is one."""

import sys
from types import ModuleType

import pytest

WAIT = 30.0


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module that this process can import and no machine can."""
    (tmp_path / "private_tool.py").write_text("def use(n):\n    return n + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import private_tool  # noqa: PLC0415

    yield private_tool
    del sys.modules["private_tool"]


def test_the_module_is_named_with_the_remedy(executor, own_module):
    error = executor.submit(own_module.use, 1).exception(WAIT)
    assert isinstance(error, ModuleNotFoundError)
    assert "private_tool" in str(error)
    assert any("add it to the image" in note and "ship=[private_tool]" in note for note in error.__notes__)


def test_a_module_that_is_shipped_is_not_missed(make_executor, own_module):
    assert isinstance(own_module, ModuleType)
    assert make_executor(ship=[own_module]).submit(own_module.use, 1).result(WAIT) == 2
