"""What travels by value (functions of scripts, notebooks, `ship`ped modules) has its file, lines and their text in the
remote traceback.
"""

import importlib
import linecache
import sys
import textwrap

import pytest

from flyexecutor import CallTimeoutError
from tests import tasks

WAIT = 30.0
TEXT = textwrap.dedent("""\
    def outer(n):
        def inner():
            return 1 / n  # of the nested one

        return inner

    divide = lambda n: 1 / n  # of the lambda

    class Divider:
        def divide(self, n):
            return divide(n)  # of the method

    def yield_some():
        yield 1
        raise ValueError("no more")  # of the generator

    def group():
        try:
            divide(0)  # of the group
        except ZeroDivisionError as exc:
            raise ExceptionGroup("some", [exc])

    def recurse(n):
        return recurse(n - 1) if n else 1 / 0

    def wait(gate):
        gate.enter()  # of the one that waits

    def nest():
        import flyexecutor

        return flyexecutor.FlyMachineExecutor().submit(divide, 0).result()
""")


def define(file):
    """What the text of this name defines, as in a script or a notebook."""
    namespace = {"__name__": "__main__"}
    exec(compile(TEXT, file, "exec"), namespace)  # noqa: S102
    return namespace


@pytest.fixture(params=["script", "cell", "file of a cell"])
def file(request, tmp_path):
    """A file that only the submitter can show: on its machine it is not there, or is another one."""
    if request.param == "script":
        path = tmp_path / "script.py"
        path.write_text(TEXT)
        return str(path)
    name = "<ipython-input-7-0123abcd>"
    if request.param == "file of a cell":
        (tmp_path / "1234.py").write_text("# something else\n" * 50)
        name = str(tmp_path / "1234.py")
    linecache.cache[name] = (len(TEXT), None, TEXT.splitlines(keepends=True), name)
    return name


def frame(file, name, line, text, indent="  "):
    return f'{indent}File "{file}", line {line}, in {name}\n{indent}  {text}\n'


def test_a_traceback_has_the_file_and_the_lines_of_functions_of_every_kind(executor, file):
    main = define(file)
    of_lambda = frame(file, "<lambda>", 7, "divide = lambda n: 1 / n  # of the lambda")
    for fn, args, expected in [
        (main["outer"](0), (), [frame(file, "inner", 3, "return 1 / n  # of the nested one")]),
        (main["divide"], (0,), [of_lambda]),
        (main["Divider"]().divide, (0,), [frame(file, "divide", 11, "return divide(n)  # of the method"), of_lambda]),
    ]:
        single = executor.submit(fn, *args).exception(WAIT)
        (chunked, _) = executor.starmap(fn, [args, args], chunksize=2, return_exceptions=True)
        for error in (single, chunked):
            assert "".join(expected) in str(error.__cause__)
            assert "something else" not in str(error.__cause__)
    with pytest.raises(ValueError, match="no more") as raised:
        list(executor.stream(main["yield_some"]))
    assert frame(file, "yield_some", 15, 'raise ValueError("no more")  # of the generator') in str(
        raised.value.__cause__
    )


def test_so_has_that_of_a_group(executor, file):
    text = str(executor.submit(define(file)["group"]).exception(WAIT).__cause__)
    assert frame(file, "group", 21, 'raise ExceptionGroup("some", [exc])', "  |   ") in text
    assert frame(file, "group", 19, "divide(0)  # of the group", "    |   ") in text


def test_so_has_that_of_a_call_that_another_call_has_made(executor, file):
    text = str(executor.submit(define(file)["nest"]).exception(WAIT).__cause__)
    assert frame(file, "<lambda>", 7, "divide = lambda n: 1 / n  # of the lambda") in text
    assert frame(file, "nest", 32, "return flyexecutor.FlyMachineExecutor().submit(divide, 0).result()") in text
    assert "something else" not in text


def test_a_call_that_takes_too_long_is_told_with_the_line_where_it_was(make_executor, file, tmp_path):
    gate = tasks.Gate.make(tmp_path)
    executor = make_executor(max_workers=1)
    executor.submit(tasks.increment, 1).result(WAIT)
    future = executor.with_options(timeout=0.5).submit(define(file)["wait"], gate)
    gate.wait_for_entry()
    error = future.exception(WAIT)
    assert isinstance(error, CallTimeoutError)
    assert f'File "{file}", line 27 in wait\n    gate.enter()  # of the one that waits\n' in str(error.__cause__)


def test_a_module_that_is_shipped_has_its_lines(make_executor, tmp_path, monkeypatch):
    path = tmp_path / "own_module.py"
    path.write_text(TEXT)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("own_module")
    try:
        error = make_executor(ship=[module]).submit(module.divide, 0).exception(WAIT)
    finally:
        del sys.modules["own_module"]
    assert frame(path, "<lambda>", 7, "divide = lambda n: 1 / n  # of the lambda") in str(error.__cause__)


def test_what_was_sent_back_keeps_its_file(executor, file):
    inner = executor.submit(define(file)["outer"], 0).result(WAIT)
    assert inner.__code__.co_filename == file
    assert linecache.getline(file, 3) == "        return 1 / n  # of the nested one\n"
