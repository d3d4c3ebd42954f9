"""Whatever bytes come from Redis: no parser raises anything but PayloadError, unpickles what is not verified, or grows.

FUZZ_EXAMPLES=10000 (`make fuzz`) has each try more.
"""

import functools
import os
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyexecutor import damage
from flyexecutor.call import CallInfo, Outcome, Report
from flyexecutor.client.future import FlyFuture
from flyexecutor.client.watcher import Watcher
from flyexecutor.errors import PayloadError
from flyexecutor.names import read_name
from flyexecutor.payload import pickles
from flyexecutor.payload.trust import Trust
from flyexecutor.states import State
from flyexecutor.store.listing import Listing
from flyexecutor.store.reader import InboxReader, OutcomeReader
from flyexecutor.store.records import Records

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
MOST_MEMORY = 32 * 1024 * 1024  # bytes
WRONG_TYPE = redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
ID = Trust(bytes(32), "fuzzed").new_call_id()

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

# What a bug or somebody may write: anything, and what is nearly right.
number = st.sampled_from(
    [b"0", b"1", b"-1", b"1.5", b"9" * 400, b"5000000000", b"1e3", b"nan", b"inf", b"\xff", b" 1", b"_1"]
)
text = st.binary(max_size=5).map(lambda raw: raw.decode("latin1"))  # st.text would first make tables
states = st.sampled_from([state.encode() for state in State] + [b"succeeded", b"nonsense"])
pieces = st.sampled_from([b"-", b"=", b"x:1", b"x:0", b"x:60000000", b"x:-1", b":1", b"x:\xd9\xa1", b"x:" + b"9" * 400])
word = st.one_of(number, states, pieces, st.binary(max_size=20), st.just(ID.encode()), st.just(b"x" * 70_000))
head = st.one_of(st.lists(word, max_size=12).map(b" ".join), st.binary(max_size=200))
json_text = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), text), st.lists, max_leaves=8
).map(
    lambda told: repr(told).replace("'", '"').replace("None", "null").replace("True", "true").encode("utf-8", "replace")
)
body = st.one_of(
    st.binary(max_size=300),
    json_text,
    st.sampled_from(
        [b"[" * 100_000, b'{"a":' * 50_000, b"[" + b"9" * 5000 + b", null, 1]", b"cos\nsystem\n(S'true'\ntR."]
    ),
)
value = st.one_of(st.none(), word, body)
fields = st.dictionaries(
    st.sampled_from([b"head", b"body", b"logs", b"report", b"x"]), st.one_of(head, body), max_size=4
)
right_head = st.tuples(st.just(ID.encode()), states, number, word, word, pieces, number, number, number).map(b" ".join)
entry = st.one_of(fields, st.builds(lambda told, of: {b"head": told, b"body": of}, right_head, body))
answer = st.one_of(value, st.just(WRONG_TYPE))


@pytest.fixture(autouse=True)
def no_unpickling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What nobody has sealed is not unpickled."""

    unpickled = []

    def refuse(*told: object, **_: object) -> None:
        unpickled.append(told)

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    monkeypatch.setattr(pickles, "load_outcome", refuse)
    yield
    assert not unpickled


def frugal(test: Callable[..., None]) -> Callable[..., None]:
    """No memory is taken that is not needed: of each example apart, since hypothesis keeps them all."""

    @functools.wraps(test)
    def measured(*args: Any, **kwargs: Any) -> None:
        tracemalloc.start()
        try:
            test(*args, **kwargs)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert most < MOST_MEMORY

    return measured


def check(exc: PayloadError) -> None:
    """What is told of damage is short, and moves no cursor."""
    assert len(str(exc)) < 300
    assert str(exc).isprintable()


def answered(told: Any) -> Any:
    if isinstance(told, Exception):
        raise told
    return told


def records(told: list[Any], piece: Any) -> Records:
    """Records of a Redis that answers so."""
    client, bulk = Mock(), Mock()
    client.pipeline.return_value.execute.side_effect = lambda **_: (
        [told] * client.pipeline.return_value.hmget.call_count
    )
    bulk.getrange.side_effect = lambda *_: answered(piece)
    return Records(client, bulk, "fly")


@fuzzed
@given(st.lists(entry, max_size=4), st.one_of(st.lists(value, min_size=3, max_size=3), st.just(WRONG_TYPE)), answer)
@frugal
def test_the_entries_of_a_client_are_outcomes_and_reports_or_nothing(entries, kept, piece):
    piece = piece if isinstance(piece, Exception) else piece or b""
    for told in records(kept, piece).news(entries):
        assert told is None or isinstance(told, Outcome | Report)
        if told:
            assert 0 <= told.attempt <= damage.MOST_ATTEMPTS


@fuzzed
@given(st.tuples(st.one_of(head, right_head), value, value, value, value, value), answer)
@frugal
def test_a_record_is_attached_to_or_damaged(told, piece):
    piece = piece if isinstance(piece, Exception) else piece or b""
    answer = [part or b"" for part in told[:4]] + list(told[4:])
    try:
        found = records([], piece).attached(answer)
    except PayloadError as exc:
        check(exc)
    else:
        assert isinstance(found.info, CallInfo)


@fuzzed
@given(
    st.sampled_from(State),
    st.integers(0, damage.MOST_ATTEMPTS),
    text,
    st.one_of(body, st.binary(max_size=99)),
)
@frugal
def test_an_outcome_that_nobody_has_sealed_is_an_error_and_never_a_result(state, attempt, machine, sealed):
    store = Mock()
    quiet: Any = {"unsent": bool, "moved": bool, "same": lambda *_: None, "waiting": lambda *_: None}
    watcher = Watcher(store, Trust(bytes(32), "fuzzed"), client="c", result_ttl=60.0, **quiet)
    future: FlyFuture[object] = FlyFuture(ID, Mock(), keep=True, attached=False)
    watcher.expect(future)
    watcher.resolve(Outcome(ID, attempt, state, machine, "", sealed))
    assert future.done()
    assert future.cancelled() or future.exception()


@fuzzed
@given(body)
@frugal
def test_progress_is_two_numbers_and_a_note_or_nothing(told):
    future: FlyFuture[object] = FlyFuture(ID, Mock(), keep=True, attached=False)
    try:
        future.tell_progress(told)
    except PayloadError:
        assert future.progress() is None
    else:
        done, total, note = future.progress()
        assert f"{done:g}{0 if total is None else total:g}{note}" != ""


def reads(reader: Any, entries: list[Any]) -> Any:
    """The reader, on a connection that answers so."""
    reader._connection = Mock()
    reader._connection.read_response.return_value = [[b"stream", entries]]
    reader._asked = 1
    return reader


@fuzzed
@given(
    st.lists(
        st.one_of(
            st.none(),
            st.lists(st.binary(max_size=60), max_size=6),
            st.tuples(st.just(b"kill"), st.binary(max_size=60)),
            st.tuples(
                st.just(b"call"),
                st.one_of(st.binary(max_size=60), head),
                st.just(b"body"),
                body,
                *[st.just(b"name")] * 2,
            ),
        ),
        max_size=5,
    )
)
@frugal
def test_what_comes_by_an_inbox_is_calls_and_ids(told):
    entries = [(b"1-%d" % n, one) for n, one in enumerate(told)]
    reader = InboxReader(Mock(), "redis", "inbox", records([None] * 3, b"").mail)
    mail = reads(reader, entries).receive({})
    assert len(mail.calls) + len(mail.kills) <= len(told)
    assert all(one.isprintable() for one in [*mail.kills, *(call.id for call in mail.calls)])
    assert reader._last == (entries[-1][0] if entries else b"0-0")


@fuzzed
@given(st.lists(st.one_of(st.none(), st.lists(st.one_of(st.binary(max_size=60), head), max_size=6)), max_size=5))
@frugal
def test_a_read_of_outcomes_goes_to_its_end(told):
    entries = [(b"1-%d" % n, one) for n, one in enumerate(told)]
    reader = OutcomeReader(Mock(), "redis", "outcomes", records([None] * 3, b"").news)
    reads(reader, entries).ask = lambda _block: None
    list(reader.read(1.0))
    assert reader._last == (entries[-1][0] if entries else b"0-0")


@fuzzed
@given(st.lists(answer, min_size=9, max_size=9), st.one_of(word, text))
@frugal
def test_a_list_of_calls_shows_what_is_damaged(told, call_id):
    pipe = Mock()
    lanes = ((1, 0), [(b"lane", 1.0), (b"\xff", float("inf"))])
    lane = (1, 2, WRONG_TYPE, (0, {b"a": b"m", b"\xff": b"\xff"}), [b"c"], [b"r b", b"\xff"])
    record = next((one for one in told if isinstance(one, Exception)), told)
    pipe.execute.side_effect = [lanes, lane, [record] * 4]
    client = Mock()
    client.pipeline.return_value = pipe
    seen = Listing(client, "fly", "redis").overview(10)
    assert len(seen.lanes) == 1
    for call in seen.calls:
        assert (call.state is None) == bool(call.damaged)


@fuzzed
@given(value)
@frugal
def test_each_reader_bounds_what_it_answers(told):
    assert len(read_name(told)) <= 100
    for read, sound in (
        (lambda: damage.whole(told, "number"), lambda one: 0 <= one <= damage.LARGEST),
        (lambda: damage.seconds(told), lambda one: 0.0 <= one < 1e12),
        (lambda: damage.word(told, "word"), lambda one: len(one) <= damage.MOST_WORD and one.isprintable()),
        (lambda: damage.words(told, "words"), lambda one: all(map(str.isprintable, one))),
        (lambda: damage.state(told), lambda one: one in State),
        (lambda: damage.pieces((told or b"").decode(errors="replace")), lambda one: one[1] <= damage.MOST_PIECES),
        (lambda: damage.progress(told or b""), lambda one: len(one[2]) <= damage.MOST_NOTE),
    ):
        try:
            one = read()
        except PayloadError as exc:
            check(exc)
        else:
            assert sound(one)
