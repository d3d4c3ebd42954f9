"""What a call is called, whatever its function is and whatever that says of itself."""

import functools
import operator

import numpy
import pytest

from flyexecutor.names import LONGEST, label, name_of, shown, visible
from tests import tasks


class Report:
    def render(self):
        return self

    def __call__(self):
        return self


class Lying:
    """Its name is no text, or can't be had."""

    def __init__(self, said):
        self._said = said

    def __call__(self):
        return self

    def __getattr__(self, name):
        if name != "__qualname__":
            raise AttributeError(name)
        if isinstance(self._said, BaseException):
            raise self._said
        return self._said


class OddText(str):
    def __len__(self):
        raise ValueError("a text without a length")


def circular_partial():
    made = functools.partial(tasks.increment)
    made.__setstate__((made, (), {}, {}))
    return made


async def wait_a_little():
    return None


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (tasks.increment, "increment"),
        (tasks.add_soon, "add_soon"),
        (wait_a_little, "wait_a_little"),
        (functools.partial(tasks.increment, 1), "increment"),
        (functools.partial(functools.partial(Report().render)), "Report.render"),
        (functools.lru_cache(tasks.increment), "increment"),
        (lambda: None, "<lambda>"),
        (Report, "Report"),
        (Report().render, "Report.render"),
        (Report(), "Report"),
        (print, "print"),
        ("abc".upper, "str.upper"),
        ([].append, "list.append"),
        (operator.itemgetter(1), "itemgetter"),
        (numpy.add, "add"),
        (Lying(ValueError("no name")), "Lying"),
        (Lying(7), "Lying"),
        (Lying(""), "Lying"),
        (Lying(OddText("odd")), "Lying"),
        (circular_partial(), "partial"),
    ],
)
def test_every_callable_has_a_name(fn, name):
    assert name_of(fn) == name


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("monthly report", "monthly report"),
        ("Überweisung 報告", "Überweisung 報告"),
        ("two\nlines\t\x1b[2J", r"two\nlines\t\x1b[2J"),
        ("\u202eright to left", r"\u202eright to left"),
        ("half of a pair \ud83d", r"half of a pair \ud83d"),
        ("x" * LONGEST, "x" * LONGEST),
        ("x" * 1000, "x" * (LONGEST - 1) + "…"),
        ("\n" * 1000, r"\n" * (LONGEST // 2 - 1) + "\\…"),
        ("", ""),
    ],
)
def test_a_name_is_shown_on_one_line_and_short_however_often_it_is_handed_on(name, told):
    assert shown(name) == told
    assert shown(told) == told
    assert len(told) <= LONGEST
    told.encode()


def test_an_id_is_shown_with_the_name_if_there_is_one():
    assert label("6b05", "resize") == "6b05 (resize)"
    assert label("6b05", "") == "6b05"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Grüße 報告 👩‍💻\u00a0\ue0b0", "Grüße 報告 👩‍💻\u00a0\ue0b0"),
        ("one\n\ttwo\r\nthree", "one\n\ttwo\r\nthree"),
        ("over\rwritten", r"over\rwritten"),
        ("\x1b[1A\x07\x00\x7f\x9b2J", r"\x1b[1A\x07\x00\x7f\x9b2J"),
        ("\u202e\u2066\u2069\u061c\u200f", r"\u202e\u2066\u2069\u061c\u200f"),
        ("\x0b\x0c\x1c\x85\u2028\u2029", r"\x0b\x0c\x1c\x85\u2028\u2029"),
        ("\udcff", r"\udcff"),
    ],
)
def test_what_acts_on_a_terminal_is_made_visible_and_nothing_else(text, told):
    assert visible(text) == told
    assert visible(told) == told
    assert visible("\t\r\n" + text, lines=False) == r"\t\r\n" + told.replace("\n", r"\n").replace("\t", r"\t").replace(
        "\r", r"\r"
    )
