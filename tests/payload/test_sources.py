import linecache
import pickle

import pytest

from flyexecutor.payload import error_text, sources


def define(file, text):
    namespace = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), namespace)  # noqa: S102
    return namespace["f"]


def send(name, text):
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    return pickle.loads(sources.dumps(define(name, text)))


def test_code_keeps_the_name_of_its_file_and_so_does_what_is_in_it():
    f = send("<cell 1>", "def f(n):\n    return [1 / n for _ in range(2)], lambda: n\n")
    assert f.__code__.co_filename == "<cell 1>"
    assert {code.co_filename for code in f.__code__.co_consts if hasattr(code, "co_filename")} == {"<cell 1>"}
    again = pickle.loads(sources.dumps(f))
    assert again.__code__.co_filename == "<cell 1>"


def test_lines_are_put_in_where_none_are_and_only_those_of_what_was_sent(tmp_path):
    send("<cell 2>", "def f():\n    first()\n    second()\n")
    (tmp_path / "secret").write_text("a secret\n")
    text = (
        '  File "<cell 2>", line 2, in f\n'
        "  [Previous line repeated 3 more times]\n"
        '  | File "<cell 2>", line 3, in f\n'
        "  |   this is told\n"
        '  File "<cell 2>", line 3 in f\n'
        '  File "<cell 2>", line 99, in f\n'
        '  File "<cell 2>", line 0, in f\n'
        f'  File "{tmp_path}/secret", line 1, in f\n'
        "SyntaxError: told\n"
    )
    assert sources.show(text) == text.replace(", line 2, in f\n", ", line 2, in f\n    first()\n").replace(
        ", line 3 in f\n", ", line 3 in f\n    second()\n"
    )


def test_who_receives_code_shows_no_lines_of_it_not_even_if_it_sends_it_on(monkeypatch):
    name, text = "<cell 3>", "def f():\n    raise ValueError('here')\n"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    data = sources.dumps(define(name, text))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(sources, "_sent", {})
        f = pickle.loads(data)
        with pytest.raises(ValueError, match="here") as caught:
            f()
        told = error_text.tell(caught.value)
        assert told.endswith('  File "<cell 3>", line 2, in f\nValueError: here\n')
        back = pickle.loads(sources.dumps(f))
        assert sources.show(told) == told
    assert "    raise ValueError('here')\n" in sources.show(told)
    assert back.__code__.co_filename == name
    assert linecache.getline(name, 2) == "    raise ValueError('here')\n"


def test_a_frame_of_a_file_that_is_gone_stays_as_it_is(tmp_path):
    path = tmp_path / "gone.py"
    path.write_text("def f():\n    pass\n")
    sources.dumps(define(str(path), path.read_text()))
    path.unlink()
    linecache.cache.pop(str(path), None)
    text = f'  File "{path}", line 2, in f\n'
    assert sources.show(text) == text
