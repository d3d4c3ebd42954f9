"""The house: what is too large has two ideas in it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import flyexecutor

PACKAGE = Path(flyexecutor.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES, MOST_OF_A_FUNCTION, MOST_ATTRIBUTES = 400, 50, 12
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def name_of(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def attributes(cls: ast.ClassDef) -> set[str]:
    """What an instance has: fields, and what its methods assign."""
    fields = {
        node.target.id for node in cls.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    methods = [node for node in cls.body if isinstance(node, ast.FunctionDef)]
    stored = [
        node
        for method in methods
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
    ]
    return fields | {node.attr for node in stored if isinstance(node.value, ast.Name) and node.value.id == "self"}


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                yield name_of(file), node


def lines(node: ast.AST) -> int:
    """How long it is without its signature; the docstrings of the public face are for `help`, and don't count."""
    first, last = node.body[0], node.body[-1]
    inner = [child for child in ast.walk(node) if isinstance(child, DOCUMENTED) and ast.get_docstring(child)]
    docstrings = sum(child.body[0].end_lineno - child.body[0].lineno + 1 for child in inner)
    return last.end_lineno - first.lineno + 1 - docstrings


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_file_and_no_function_is_too_long(file):
    module = ast.parse(file.read_text())
    assert not module.body or lines(module) <= MOST_LINES
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if lines(node) > MOST_OF_A_FUNCTION] == []


def test_a_class_with_many_attributes_says_why():
    many = [(name, cls) for name, cls in classes() if len(attributes(cls)) > MOST_ATTRIBUTES]
    silent = [f"{name}: {cls.name}" for name, cls in many if "attribute" not in (ast.get_docstring(cls) or "")]
    assert not silent, silent


def test_each_room_says_what_it_knows_and_what_it_never_knows():
    rooms = [file for file in FILES if file.name == "__init__.py" and file.parent.parent == PACKAGE]
    assert len(rooms) >= 8
    for room in rooms:
        text = ast.get_docstring(ast.parse(room.read_text())) or ""
        assert "nows" in text, name_of(room)
        assert "never" in text or "nothing" in text, name_of(room)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_value_is_called_by_what_it_is(file):
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = {node.id for node in nodes if isinstance(node, ast.Name)} | {
        node.arg for node in nodes if isinstance(node, ast.arg)
    }
    assert names & {"told", "one", "it", "thing"} == set()
