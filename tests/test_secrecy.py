"""What hides itself, and what is taken out of other people's words."""

import json
import pickle
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyexecutor.secrecy import Address, Secret, SecretBytes, goes_in_clear, passwords_of, redact, scrub


def test_a_secret_is_a_text_that_its_repr_does_not_show():
    secret = Secret("geheim")
    assert secret == "geheim"
    assert f"Bearer {secret}" == "Bearer geheim"
    assert json.loads(json.dumps({"a": secret})) == {"a": "geheim"}
    assert pickle.loads(pickle.dumps(secret)) == "geheim"
    assert repr(pickle.loads(pickle.dumps(secret))) == "'***'"
    assert repr([{"a": secret}, SecretBytes(b"geheim")]) == "[{'a': '***'}, b'***']"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rediss://u:p@h:1/2", "rediss://h:1/2"),
        ("redis://u:p/x@y@h:1/2?password=p", "redis://h:1/2"),
        ("redis://h:1/2?password=p@y", "redis://..."),
        ("redis://h:1/2?password=p?p", "redis://h:1/2"),
        ("redis://h:1/2?password=a://p", "redis://h:1/2"),
        ("redis://u:a://p@h:1", "redis://h:1"),
        ("redis://[fdaa:0:1::2]:6379/0", "redis://[fdaa:0:1::2]:6379/0"),
        ("redis://u:p@h:1/2#f", "redis://h:1/2"),
        ("redis://:geheim", "redis://..."),
        ("redis://u:geheim", "redis://..."),
        ("redis://u:1/geheim", "redis://..."),
        ("redis://h:1/2;geheim", "redis://..."),
        ("https://h/a/b.c?q=geheim", "https://h/a/b.c"),
        ("http://h:4280", "http://h:4280"),
        ("u:p@h:1", "h:1"),
        ("u:p@redis://h:1", "redis://h:1"),
        ("", "..."),
    ],
)
def test_an_address_is_shown_without_its_password_wherever_that_stands(url, shown):
    assert redact(url) == shown


@settings(deadline=None)
@given(
    st.text(max_size=8),
    st.text(max_size=8),
    st.sampled_from(
        [
            "redis://:{}@h:1/0",
            "redis://u:{}@h",
            "rediss://{}@h:1",
            "redis://h:1/0?password={}",
            "redis://h:1/0?db=1&password={}#x",
            "redis://u:p@h:1/0?password={}",
            "http://u:{}@h/v1",
            "u:{}@h",
        ]
    ),
)
def test_no_address_shows_its_password_whatever_that_holds(before, after, form):
    password = f"{before}geheim{after}"
    for written in (password, quote(password), quote(password, safe="")) if password.isprintable() else (password,):
        url = form.format(written)
        assert "geheim" not in redact(url)
        assert "geheim" not in repr(Address(url))
        if "?" not in before + after and "password=" not in form:
            assert any("geheim" in one for one in passwords_of(url)) or "u:" not in form


@pytest.mark.parametrize(
    ("url", "passwords"),
    [
        ("redis://u:p%2Fq@h:1/0", {"p%2Fq", "p/q"}),
        ("redis://:p@h", {"p"}),
        ("redis://h:1/0?db=1&password=a%40b", {"a@b"}),
        ("redis://h:1", set()),
        ("postgres://ann:geheim@db/x", {"geheim"}),
    ],
)
def test_the_passwords_of_an_address_are_known_as_written_and_as_meant(url, passwords):
    assert passwords_of(url) == passwords


SECRETS = ["FlyV1 fm2_a/b+c,fm2_x", "geheim", 'quo"te\\d secret']
ENV = {"REDIS": "redis://:geheim@h", "MODE": "1", "SHORT": "abc", "EMPTY": "", "LINES": "a\nb\nc\nd\ne"}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("the token FlyV1 fm2_a/b+c,fm2_x is bad", "the token *** is bad"),
        ("?token=FlyV1%20fm2_a%2Fb%2Bc%2Cfm2_x&x=1", "?token=***&x=1"),
        ("with args beginning with: `default` `geheim`", "with args beginning with: `default` `***`"),
        ("a geheimnis", "a geheimnis"),  # short: only as a word
        (json.dumps({"key": SECRETS[2]}), '{"key": "***"}'),
        ('env {"REDIS":"redis://:geheim@h"}', 'env {"REDIS":"***"}'),
        ('1 machine with "MODE": "1" of 11', '1 machine with "MODE": "***" of 11'),
        (json.dumps(json.dumps({"SHORT": "abc"})), r'"{\"SHORT\": \"***\"}"'),
        ("map[EMPTY: MODE:1 SHORT:abc]", "map[EMPTY: MODE:*** SHORT:***]"),
        (r"LINES=a\nb\nc\nd\ne", "LINES=***"),
        ("nothing of it", "nothing of it"),
        ("", ""),
    ],
)
def test_what_others_say_is_told_without_our_secrets_however_they_are_quoted(said, told):
    assert scrub(said, SECRETS, ENV) == told


def test_an_address_takes_its_password_out_of_what_its_server_says():
    address = Address("redis://ann:ge%21heim@h:1/0")
    assert address == "redis://h:1/0"
    said = ValueError("WRONGPASS `ann` `ge!heim` of redis://ann:ge%21heim@h:1/0")
    assert address.scrub(said) == "WRONGPASS `ann` `***` of redis://ann:***@h:1/0"


@pytest.mark.parametrize(
    ("url", "in_clear"),
    [
        ("redis://u:p@redis.example.com:6379/0", True),
        ("redis://u:p@8.8.8.8:6379", True),
        ("redis://[2606:4700::1111]:6379", True),
        ("redis://u:p@eu1-tidy.upstash.io:6379", True),
        ("http://api.machines.dev", True),
        ("https://api.machines.dev", False),
        ("rediss://u:p@redis.example.com", False),
        ("redis://default:p@fly-tidy-fog-12.upstash.io:6379", False),
        ("redis://localhost:6379", False),
        ("redis://redis:6379", False),
        ("redis://10.1.2.3", False),
        ("redis://192.168.0.7", False),
        ("redis://127.0.0.1", False),
        ("redis://[::1]", False),
        ("redis://[fdaa:0:1:a7b::2]:6379", False),
        ("redis://my-redis.internal:6379", False),
        ("redis://my-redis.flycast:6379", False),
        ("http://_api.internal:4280", False),
    ],
)
def test_what_crosses_the_internet_without_tls_goes_in_clear(url, in_clear):
    assert goes_in_clear(url) == in_clear
