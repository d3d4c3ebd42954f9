import pytest

from flyexecutor.errors import PayloadError, PythonMismatchError
from flyexecutor.trust import Encoding, Trust, derive_key

KEY = derive_key("secret", "app")


@pytest.fixture
def trust():
    return Trust(KEY, "app")


def test_what_is_sealed_opens_again(trust):
    opened = trust.open_call("id", trust.seal_call("id", b"body"))
    assert (opened.encoding, bytes(opened.body)) == (Encoding.PICKLE, b"body")


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_a_change_of_any_byte_is_refused(trust, at):
    sealed = bytearray(trust.seal_call("id", b"x" * 20))
    sealed[at] ^= 1
    with pytest.raises(PayloadError):
        trust.open_call("id", bytes(sealed))


@pytest.mark.parametrize("length", [0, 1, 45, 46])
def test_a_truncated_payload_is_refused(trust, length):
    with pytest.raises(PayloadError):
        trust.open_call("id", trust.seal_call("id", b"body")[:length])


def test_a_payload_is_bound_to_call_direction_attempt_and_app(trust):
    call, outcome = trust.seal_call("id", b"body"), trust.seal_outcome("id", 1, b"body")
    for open_it in (
        lambda: trust.open_call("other", call),
        lambda: trust.open_outcome("id", 0, call),
        lambda: trust.open_call("id", outcome),
        lambda: trust.open_outcome("id", 2, outcome),
        lambda: Trust(KEY, "other").open_call("id", call),
    ):
        with pytest.raises(PayloadError, match="does not verify"):
            open_it()


def test_a_foreign_key_is_told_by_the_ids_of_both(trust):
    other = Trust(derive_key("other", "app"), "app")
    with pytest.raises(PayloadError, match=f"{other.key_id.hex()}.*{trust.key_id.hex()}.*FLYEXECUTOR_SECRET"):
        trust.open_call("id", other.seal_call("id", b"body"))


def test_a_pickle_of_another_python_is_refused_and_a_plain_text_is_not(trust, monkeypatch):
    monkeypatch.setattr("sys.version_info", (3, 9))
    pickled = trust.seal_outcome("id", 1, b"body")
    text = trust.seal_outcome("id", 1, b"{}", Encoding.TEXT)
    monkeypatch.undo()
    with pytest.raises(PythonMismatchError, match=r"Python 3\.9"):
        trust.open_outcome("id", 1, pickled)
    assert trust.open_outcome("id", 1, text).encoding is Encoding.TEXT


def test_an_old_format_is_told(trust):
    sealed = bytearray(trust.seal_call("id", b"body"))
    sealed[2] = 0
    with pytest.raises(PayloadError, match="format 0"):
        trust.open_call("id", bytes(sealed))


def test_it_knows_its_own_ids_and_no_others(trust):
    call_id = trust.new_call_id()
    assert trust.knows(call_id)
    assert call_id != trust.new_call_id()
    for foreign in ("", "zz", "0" * len(call_id), call_id[:-1], Trust(b"k", "app").new_call_id()):
        assert not trust.knows(foreign)


def test_keys_differ_by_app_and_secret_and_are_never_shown(trust):
    assert len({KEY, derive_key("secret", "b"), derive_key("b", "app")}) == 3
    assert KEY.hex() not in repr(trust)
