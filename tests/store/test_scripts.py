"""What the Lua scripts are made of, and what they and Python both know. Nothing here needs a Redis."""

import ast
import re

import pytest

from flyexecutor.call import Report
from flyexecutor.client.watcher import DAMAGED
from flyexecutor.damage import MOST_WORD
from flyexecutor.payload.trust import Trust
from flyexecutor.states import State
from flyexecutor.store.calls import NOT_STARTED
from flyexecutor.store.records import INLINE_BYTES
from flyexecutor.store.scripts import SHARED, Script, read


def number(file, name):
    """A constant of a Lua file."""
    return int(re.search(rf"^local {name} = (\d+)", read(file), re.MULTILINE)[1])


def test_a_file_comes_once_and_behind_those_that_it_needs():
    texts = {
        "top": "-- Needs: left right\n(top)",
        "left": "-- Needs: base\n(left)",
        "right": "-- Needs: base left\n(right)",
        "base": "(base)",
    }
    script = Script("put")
    script.assemble("top", texts.__getitem__)
    assert re.findall(r"\((\w+)\)", script._text) == ["base", "left", "right", "top"]


def test_scripts_know_the_constants_that_python_tells_them():
    text = Script("put")._text.removesuffix(read("put"))
    constants = dict(re.fullmatch(r"local (\w+) = (.*)", line).groups() for line in text.splitlines())
    assert {name: ast.literal_eval(value) for name, value in constants.items()} == SHARED


def test_scripts_know_the_states_of_the_table():
    (states,) = re.findall(r"^local STATES = \{(.*)\}$", read("lib_call"), re.MULTILINE)
    assert re.findall(r"(\w+) = 1", states) == [state.value for state in State]


@pytest.mark.parametrize(
    ("file", "word"),
    [
        ("lib_settle", DAMAGED.decode()),
        ("lib_again", Report.MOVED),
        ("enqueue", Report.SAME),
        ("enqueue", Report.PROGRESS),
        ("report", Report.ITEM),
        ("report", Report.LOGS),
    ],
)
def test_scripts_say_what_clients_look_for(file, word):
    assert f"'{word}" in read(file)


def test_a_worker_that_nobody_has_started_is_told_so():
    assert f"then return {NOT_STARTED} end" in read("join")


def test_scripts_take_what_python_sends():
    assert number("lib_queue", "MOST_ID") >= len(Trust(bytes(32), "app").new_call_id())
    assert number("lib_call", "MOST_BODY") >= INLINE_BYTES
    assert number("lib_tell", "MOST_WORD") <= MOST_WORD  # what a script tells, Python reads
