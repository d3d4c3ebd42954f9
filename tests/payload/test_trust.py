import re
import sys

import pytest

from flyexecutor.errors import PayloadError, PythonMismatchError
from flyexecutor.payload.trust import Encoding, Trust, derive_key
from flyexecutor.states import State
from flyexecutor.terms import UNREAD, CallTerms, OutcomeTerms, answer_to, new_terms

KEY = derive_key("secret", "app")
TERMS = CallTerms(bytes(range(16)), 1_800_000_000.5, ["lane", "larger"], 2, 1.5, 20.0, 60.0)
ENDED = OutcomeTerms(bytes(range(16)), State.SUCCEEDED, 1_800_000_060.5)


@pytest.fixture
def trust():
    return Trust(KEY, "app")


def test_what_is_sealed_opens_again(trust):
    for body in (b"body", b""):
        opened = trust.open_call("id", trust.seal_call("id", TERMS, body))
        assert (opened.encoding, bytes(opened.body)) == (Encoding.PICKLE, body)


# Magic, format, Python, encoding, flags, key id, length of terms, MAC, terms, body. A change here is a change of the
# wire: it needs a new FORMAT.
GOLDEN = {
    "call": "4658 03 030c 00 00 e699f8740b519467 003f "
    "ff331f406c5c26a916301697b28caf488f2338a6ad45f9001d9da45d7f7505d0"
    "000102030405060708090a0b0c0d0e0f41dad27480200000000000023ff80000000000004034000000000000404e000000000000"
    "6c616e65206c6172676572",
    "outcome": "4658 03 030c 01 00 e699f8740b519467 0019 "
    "fee3a15ba00a8d85b49a71d923bcfaaaa02377828737f8d114a0557f88e417a6"
    "000102030405060708090a0b0c0d0e0f0141dad2748f200000",
    "part": "4658 03 030c 02 00 e699f8740b519467 0000 114984601de42a2c208f84b18ea29698c5ad8b3874d83ce7093e138d24cef828",
    "item": "4658 03 030c 00 00 e699f8740b519467 0000 2295d92e31562409b0d69c4a670df254b513ed63571cc449b522f5d6c8e7e756",
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_what_was_sealed_by_another_process_of_this_version_opens(trust, monkeypatch, kind):
    monkeypatch.setattr("sys.version_info", (3, 12))
    seal, open_, encoding = {
        "call": (trust.seal_call, trust.open_call, Encoding.PICKLE),
        "outcome": (trust.seal_outcome, trust.open_outcome, Encoding.TEXT),
        "part": (trust.seal_part, trust.open_part, Encoding.ZLIB),
        "item": (trust.seal_item, trust.open_item, Encoding.PICKLE),
    }[kind]
    terms = {"call": [TERMS], "outcome": [ENDED]}.get(kind, [])
    where = ("id", *{"outcome": (7,), "item": (7, 12)}.get(kind, ()))
    sealed = bytes.fromhex(GOLDEN[kind]) + b"body"
    assert seal(*where, *terms, b"body", encoding) == sealed
    opened = open_(*where, sealed)
    assert (opened.encoding, bytes(opened.body)) == (encoding, b"body")
    assert terms in ([], [getattr(opened, "terms", None)])


def test_keys_and_ids_are_the_same_in_every_process(trust):
    assert derive_key("secret", "app").hex() == "f08a6f8dcdde5f99d9a8f81a43b0eac8c8ffcdd4873952b537bb5a70554a96cf"
    assert trust.key_id.hex() == "e699f8740b519467"
    assert trust.new_call_id("k") == "dbd6856494a7cf2de2af60b67ff882d762f10375912823cc"


def test_a_change_of_any_bit_is_refused(trust):
    sealed = trust.seal_call("id", TERMS, b"x" * 20)
    reasons = {**dict.fromkeys(range(3), "has format"), **dict.fromkeys(range(7, 15), "is signed with key")}
    for at in range(len(sealed)):
        for bit in range(8):
            changed = sealed[:at] + bytes([sealed[at] ^ 1 << bit]) + sealed[at + 1 :]
            with pytest.raises(PayloadError, match=reasons.get(at, "does not verify")):
                trust.open_call("id", changed)


@pytest.mark.parametrize(
    ("length", "told"),
    [(0, r"is truncated \(0 bytes\)"), (1, "truncated"), (48, "truncated"), (49, "verify"), (115, "verify")],
)
def test_a_truncated_payload_is_refused(trust, length, told):
    with pytest.raises(PayloadError, match=f"^the call payload of call id .*{told}"):
        trust.open_call("id", trust.seal_call("id", TERMS, b"body")[:length])


def test_a_payload_is_bound_to_call_direction_attempt_and_app(trust):
    call, outcome = trust.seal_call("id", TERMS, b"body"), trust.seal_outcome("id", 1, ENDED, b"body")
    for open_it in (
        lambda: trust.open_call("other", call),
        lambda: trust.open_outcome("id", 0, call),
        lambda: trust.open_call("id", outcome),
        lambda: trust.open_outcome("id", 2, outcome),
        lambda: Trust(KEY, "other").open_call("id", call),
        lambda: trust.open_part("id", call),
        lambda: trust.open_item("id", 1, 0, outcome),
        lambda: trust.open_item("id", 1, 1, trust.seal_item("id", 1, 0, b"body", Encoding.PICKLE)),
        lambda: trust.open_item("id", 2, 0, trust.seal_item("id", 1, 0, b"body", Encoding.PICKLE)),
    ):
        with pytest.raises(PayloadError, match="does not verify"):
            open_it()


def test_a_foreign_key_is_told_by_the_ids_of_both(trust):
    other = Trust(derive_key("other", "app"), "app")
    ids = f"is signed with key {other.key_id.hex()}, ours is {trust.key_id.hex()}"
    remedy = re.escape("give both sides the same FLYEXECUTOR_SECRET (or the same Fly API token), or")
    with pytest.raises(PayloadError, match=f"{ids}: {remedy}"):
        trust.open_call("id", other.seal_call("id", TERMS, b"body"))


def test_a_ring_signs_with_its_first_key_and_opens_what_any_of_them_has_signed():
    old, new = derive_key("old", "app"), derive_key("new", "app")
    before, after = Trust(old, "app", [new]), Trust(new, "app", [old])
    for ours, theirs, key in ((before, after, new), (after, before, old)):
        sealed = theirs.seal_call("id", TERMS, b"body")
        assert bytes(ours.open_call("id", sealed).body) == b"body"
        assert sealed == Trust(key, "app").seal_call("id", TERMS, b"body")
        assert ours.knows(theirs.new_call_id())
        assert ours.knows(theirs.new_call_id("k"))
        with pytest.raises(PayloadError, match="does not verify"):
            ours.open_call("other", sealed)
        with pytest.raises(PayloadError, match=f"ours are {ours.key_id.hex()}, {theirs.key_id.hex()}: "):
            ours.open_call("id", Trust(KEY, "app").seal_call("id", TERMS, b"body"))


def test_a_key_points_to_its_ids_under_the_other_keys_and_nobody_without_one_can_point():
    one, two, three = (derive_key(secret, "app") for secret in ("one", "two", "three"))
    trust = Trust(one, "app", [two, three])
    call_id = trust.new_call_id("k")
    found = [trust.follow(call_id, pointer) for pointer in trust.pointers("k")]
    assert found == [Trust(key, "app").new_call_id("k") for key in (two, three)]
    pointer = trust.pointers("k")[0]
    assert Trust(two, "app", [one]).follow(call_id, pointer) == found[0]
    other_id, other_app, stranger = trust.new_call_id("l"), Trust(one, "other"), Trust(two, "app")
    for somebody, asked, told in (
        (trust, other_id, pointer),
        (trust, call_id, found[1] + pointer[48:]),
        (trust, call_id, pointer[:-1]),
        (trust, call_id, ""),
        (trust, call_id, "\u20ac"),
        (other_app, call_id, pointer),
        (stranger, call_id, pointer),
    ):
        assert somebody.follow(asked, told) is None
    assert Trust(one, "app").pointers("k") == []


def test_a_machine_is_one_of_a_lane_by_the_word_of_who_has_a_key_and_nobody_else():
    one, two = derive_key("one", "app"), derive_key("two", "app")
    trust = Trust(one, "app", [two])
    proof = Trust(two, "app").vouch("lane", "m1")
    assert trust.is_vouched("lane", "m1", proof)
    assert trust.is_vouched("lane", "m1", trust.vouch("lane", "m1"))
    for somebody, lane, machine, told in (
        (trust, "other", "m1", proof),
        (trust, "lane", "m2", proof),
        (trust, "lane", "m1", proof[:-1]),
        (trust, "lane", "m1", ""),
        (trust, "lane", "m1", "\u20ac"),
        (Trust(one, "app"), "lane", "m1", proof),
        (Trust(two, "other"), "lane", "m1", proof),
    ):
        assert not somebody.is_vouched(lane, machine, told)
    pointer = trust.pointers("k")[0]  # what proves something else proves nothing here
    assert not trust.is_vouched(trust.new_call_id("k"), pointer[:48], pointer[48:])


def test_a_pickle_of_another_python_is_refused_and_a_plain_text_is_not(trust, monkeypatch):
    monkeypatch.setattr("sys.version_info", (3, 9))
    pickled = trust.seal_outcome("id", 1, ENDED, b"body")
    text = trust.seal_outcome("id", 1, ENDED, b"{}", Encoding.TEXT)
    monkeypatch.undo()
    ours = ".".join(map(str, sys.version_info[:2]))
    with pytest.raises(PythonMismatchError, match=rf"by Python 3\.9, this side runs Python {re.escape(ours)}: "):
        trust.open_outcome("id", 1, pickled)
    assert trust.open_outcome("id", 1, text).encoding is Encoding.TEXT


def test_what_has_a_flag_that_nobody_knows_is_not_unpickled(trust, monkeypatch):
    body = trust.seal_call("id", TERMS, b"body")
    head = bytearray(body[:17])
    head[6] = 2
    resealed = bytes(head) + trust._mac(KEY, bytes(head), b"call", "id", 0, body[49:]) + body[49:]
    with pytest.raises(PayloadError, match=r"flags that this flyexecutor does not know \(0x2\)"):
        trust.open_call("id", resealed)


@pytest.mark.parametrize("body", [b"", b"body" * 500])
def test_an_encrypted_body_is_read_with_its_key_alone_and_never_looks_the_same(trust, body):
    encrypting = Trust(KEY, "app", encrypts=True)
    sealed, again = (encrypting.seal_call("id", TERMS, body, Encoding.ZLIB) for _ in range(2))
    assert trust.open_call("id", sealed) == (TERMS, Encoding.ZLIB, body)
    assert trust.unverified_terms(sealed) == TERMS
    assert b"body" not in sealed
    assert sealed[-len(body) - 16 :] != again[-len(body) - 16 :]
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    with pytest.raises(PayloadError, match="does not verify"):
        trust.open_call("id", changed)


def test_the_terms_of_a_call_can_be_read_without_verifying_if_they_are_ours(trust):
    sealed = trust.seal_call("id", TERMS, b"body")
    assert trust.unverified_terms(sealed[:-1] + b"!") == TERMS
    others = (Trust(b"k", "app").seal_call("id", TERMS, b"body"), trust.seal_outcome("id", 1, ENDED, b"body"))
    for foreign in (b"", sealed[:60], b"{" + sealed, sealed[:2] + b"\1" + sealed[3:], *others):
        assert trust.unverified_terms(foreign) is None


def test_terms_hold_whatever_the_options_may_be(trust):
    huge = new_terms(["0" * 16] * 20, result_ttl=1e9, retries=10**30, timeout=1e9, expires=0.001)
    opened = trust.open_call("id", trust.seal_call("id", huge, b"body"))
    assert opened.terms == huge._replace(retries=2**32 - 1)
    assert new_terms([], result_ttl=1.0).nonce != new_terms([], result_ttl=1.0).nonce != UNREAD.nonce


def test_an_outcome_is_kept_from_its_end_by_the_clock_that_is_ahead(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_800_000_100.0)
    answers = {answer_to(TERMS._replace(made_at=at), State.FAILED).kept_until for at in (1.8e9, 1.8e9 + 7300)}
    assert answers == {1_800_000_160.0, 1_800_007_360.0}


def test_an_old_format_is_told(trust):
    sealed = bytearray(trust.seal_call("id", TERMS, b"body"))
    sealed[2] = 0
    with pytest.raises(PayloadError, match="format 0"):
        trust.open_call("id", bytes(sealed))


def test_an_id_tells_when_it_was_made(monkeypatch):
    for second in (1_800_000_000, 2**31 + 5):
        monkeypatch.setattr("flyexecutor.payload.trust.time.time", lambda now=second: now + 0.75)
        trust = Trust(KEY, "app")
        assert trust.made_at(trust.new_call_id()) == second


def test_it_knows_its_own_ids_and_no_others(trust):
    call_id = trust.new_call_id()
    assert (trust.knows(call_id), len(call_id)) == (True, 48)
    assert call_id != trust.new_call_id()
    others = (Trust(b"k", "app").new_call_id(), Trust(KEY, "other").new_call_id())
    not_quite = (call_id[:-1], call_id[:-2], f"{call_id}\n", f" {call_id}", call_id.upper())
    for foreign in ("", "zz", "0" * len(call_id), *not_quite, *others):
        assert not trust.knows(foreign)


def test_the_same_key_is_the_same_id_for_one_app_and_one_signing_key_only(trust):
    call_id = trust.new_call_id("k")
    assert (trust.knows(call_id), len(call_id)) == (True, 48)
    assert trust.new_call_id("k") == call_id
    others = [trust.new_call_id("l"), Trust(KEY, "other").new_call_id("k"), Trust(b"k", "app").new_call_id("k")]
    assert len({made[:32] for made in (call_id, *others)}) == 4  # not by the tag alone


def test_an_id_begins_with_its_time_for_as_long_as_four_bytes_last(trust, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 4_000_000_000.9)
    first, second = trust.new_call_id(), trust.new_call_id()
    assert first[:8] == second[:8] == f"{4_000_000_000:08x}"
    assert len({n[m : m + 8] for n in (first, second) for m in (8, 16, 24)}) == 6  # 96 random bits


def test_the_id_of_a_batch_gives_those_of_its_calls_in_order(trust):
    batch_id = trust.new_batch_id(3)
    ids = trust.calls_of_batch(batch_id)
    assert ids == Trust(KEY, "app").calls_of_batch(batch_id)
    assert (len(set(ids)), trust.calls_of_batch(trust.new_batch_id(0))) == (3, [])
    assert {trust.made_at(one) for one in (*ids, batch_id)} == {trust.made_at(batch_id)}
    assert len({one[8:32] for one in (*ids, *trust.calls_of_batch(trust.new_batch_id(3)))}) == 6
    assert Trust(b"k", "app").calls_of_batch(batch_id) == []
    turned = Trust(b"k", "app", [KEY])  # the ring has turned since
    assert (turned.calls_of_batch(batch_id), turned.knows_batch(batch_id)) == (ids, True)


def test_a_batch_is_never_taken_for_a_call_and_its_number_is_sealed(trust):
    batch_id = trust.new_batch_id(3)
    ids = trust.calls_of_batch(batch_id)
    assert (len(batch_id), trust.knows(batch_id), trust.knows_batch(batch_id)) == (48, False, True)
    assert [(trust.knows(one), trust.knows_batch(one)) for one in (*ids, trust.new_call_id("k"))] == [(True, False)] * 4
    other_number = batch_id[:15] + "4" + batch_id[16:]
    for foreign in (other_number, Trust(KEY, "other").new_batch_id(3), "", "zz"):
        assert not trust.knows_batch(foreign)


def test_keys_differ_by_app_and_secret_and_are_never_shown(trust):
    assert len({KEY, derive_key("secret", "b"), derive_key("b", "app")}) == 3
    assert repr(trust) == f"<Trust key {trust.key_id.hex()}>"
    assert KEY.hex() not in repr(trust)
