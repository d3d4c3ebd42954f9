"""Module missing in the image: clear error naming the module, and the remedy; `ship` is one."""

import sys
from types import ModuleType

import pytest

from flyexecutor import InitializerError

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


def names(module, error):
    (note,) = [note for note in error.__notes__ if "has no module" in note]
    return module in note and "add it to the image" in note and f"ship=[{module}]" in note


def use_it(n):
    import private_tool  # noqa: PLC0415

    return private_tool.use(n)


def test_so_is_one_that_a_function_imports_itself(executor):
    def import_what_nobody_has(_):
        import no_such_package.sub  # noqa: PLC0415, F401

    for error in (
        executor.submit(use_it, 1).exception(WAIT),
        *executor.map(use_it, [1, 2], chunksize=2, return_exceptions=True),
    ):
        assert isinstance(error, ModuleNotFoundError)
        assert names("private_tool", error)
        assert "has no module 'private_tool'" in str(error.__cause__)
    assert names("no_such_package", executor.submit(import_what_nobody_has, 1).exception(WAIT))


def test_so_is_one_that_an_initializer_imports(make_executor):
    error = make_executor(initializer=use_it, initargs=(1,)).submit(abs, -1).exception(WAIT)
    assert isinstance(error, InitializerError)
    assert "ship=[private_tool]" in str(error.__cause__)


def test_the_remedy_works(make_executor, own_module):
    def use(n):
        return own_module.use(n)

    assert make_executor(ship=[own_module]).submit(use, 1).result(WAIT) == 2


def test_a_module_that_is_shipped_is_not_missed(make_executor, own_module):
    assert isinstance(own_module, ModuleType)
    assert make_executor(ship=[own_module]).submit(own_module.use, 1).result(WAIT) == 2
