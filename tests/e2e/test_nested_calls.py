"""A call that waits for calls of its own says so to its worker, which lets others run meanwhile."""

import os

import pytest

from flyexecutor.worker import context
from flyexecutor.worker.context import Channel, CurrentCall
from flyexecutor.worker.pipe import NESTED, FrameReader, unpack_message
from tests import tasks

WAIT = 30.0
FIRST, SECOND = "1" * 48, "2" * 48  # ids of calls


def test_two_executors_in_a_call_do_not_talk_over_each_other(make_executor, tmp_path):
    executor = make_executor(max_workers=1, concurrency=2)
    assert executor.submit(tasks.nest_in_two, tasks.Gate.make(tmp_path)).result(WAIT) == 2


@pytest.fixture
def channel(monkeypatch):
    """As if the test were a runner."""
    out, into = os.pipe()
    channel = Channel(into)
    monkeypatch.setattr(context, "channel", channel)
    yield channel, FrameReader(out)
    os.close(out)
    os.close(into)


def test_what_an_earlier_call_left_pending_neither_counts_nor_hides_what_the_next_one_waits_for(
    make_executor, tmp_path, channel
):
    channel, worker = channel
    executor = make_executor(max_workers=2)
    gate = tasks.Gate.make(tmp_path)
    told = []

    def hear(count):
        while len(told) < count:
            told.extend(
                (message.kind, message.call_id, message.number) for message in map(unpack_message, worker.read_some())
            )
        return told

    channel.begin(CurrentCall(FIRST, 1))
    left = executor.submit(gate.enter)
    gate.wait_for_entry()
    assert hear(1) == [(NESTED, FIRST, 1)]
    channel.begin(None)
    channel.begin(CurrentCall(SECOND, 1))
    executor.submit(tasks.increment, 1).result(WAIT)
    assert hear(3)[1:] == [(NESTED, SECOND, 1), (NESTED, SECOND, 0)]
    gate.open()
    left.result(WAIT)
    executor.submit(tasks.increment, 1).result(WAIT)
    assert hear(5)[3:] == [(NESTED, SECOND, 1), (NESTED, SECOND, 0)]
