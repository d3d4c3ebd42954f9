import base64
import os
import secrets
import uuid

import pytest

from flyexecutor.cli.checks import check_settings
from flyexecutor.cli.common import Where
from flyexecutor.errors import SettingsError
from flyexecutor.payload.trust import derive_key
from flyexecutor.settings import machine_settings, read_settings

FULL = {
    "FLY_TASKS_APP": "tasks",
    "FLY_API_TOKEN": "FlyV1 fm2_a9fK2mQx7,fm2_bW4tZ8c",
    "REDIS_URL": "redis://default:geheim@host:6379/0",
    "FLY_IMAGE_REF": "own-image",
}


GOOD, OTHER = "Zy0uCkGJ3xWq8mSbnR1TfA5hVdE7oLpK", "b4b5cf6e-93f1-4f0e-8d3b-0c6a2a9b7c11"


def test_everything_can_come_from_the_environment():
    settings = read_settings(environ={**FULL, "FLY_REGION": "fra"})
    assert (settings.app, settings.token, settings.image) == ("tasks", FULL["FLY_API_TOKEN"], "own-image")
    assert (settings.api_url, settings.regions) == ("https://api.machines.dev", ("fra",))
    assert settings.redis_url == FULL["REDIS_URL"]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("http://_api.internal:4280", "http://_api.internal:4280"),
        ("https://api.test/X//", "https://api.test/X"),
    ],
)
def test_the_api_is_where_the_environment_or_the_caller_says(given, read):
    assert read_settings(environ={**FULL, "FLY_API_HOSTNAME": given}).api_url == read
    assert read_settings(api_url=given, environ={**FULL, "FLY_API_HOSTNAME": "https://other.test"}).api_url == read


def test_arguments_go_before_the_environment_and_worker_image_before_the_own_image():
    settings = read_settings(app="mine", environ={**FULL, "WORKER_IMAGE": "worker"})
    assert (settings.app, settings.image) == ("mine", "worker")
    given = {"token": "t", "redis_url": "rediss://u:p@h:1", "image": "i", "regions": ["ams", "iad"]}
    settings = read_settings(environ={**FULL, "WORKER_IMAGE": "worker", "FLY_REGION": "fra"}, **given)
    assert (settings.token, settings.redis_url, settings.image) == ("t", "rediss://u:p@h:1", "i")
    assert settings.regions == ("ams", "iad")
    assert read_settings(environ={**FULL, "FLY_REGION": "fra"}, regions=[]).regions == ()  # Fly chooses
    assert read_settings(environ=FULL).regions == ()


def test_all_that_is_missing_is_named_at_once():
    with pytest.raises(SettingsError) as told:
        read_settings(environ={})
    assert str(told.value) == (
        "missing: the app that holds the machines (argument app= or environment variable FLY_TASKS_APP); "
        "a Fly API token (argument token= or environment variable FLY_API_TOKEN); "
        "the address of Redis (argument redis_url= or environment variable REDIS_URL); "
        "the image of the worker (argument image= or environment variable WORKER_IMAGE). "
        "To try it on this computer use local=True"
    )


PORT = r"^REDIS_URL has no valid port: in its password / \? # \[ \] must be written as %2F %3F %23 %5B %5D$"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"redis_url": "http://u:geheim@h"}, "must start with redis://"),
        ({"redis_url": "http://u:x://geheim@h"}, "'http://h': it must start with redis:// or rediss://"),
        ({"redis_url": "redis://u:geheim/x@h:1"}, PORT),
        ({"redis_url": "redis://u:1/geheim@h:1"}, "%2F"),
        ({"redis_url": "redis://u:a://geheim@h:1"}, "%2F"),
        ({"redis_url": "redis://u:geheim@h:0"}, "no valid port"),
        ({"redis_url": "redis://u:geheim#x@h:1"}, "%2F"),
        ({"redis_url": "redis://u:[geheim@h:1"}, "%2F"),
        ({"redis_url": "geheim@h:1"}, "must start with redis://"),
        ({"redis_url": "geheim"}, "REDIS_URL is no address: it must start with redis://"),
        ({"token": "geheim\n"}, "FLY_API_TOKEN holds something that no token does, a line's end"),
        ({"token": "gehe€im"}, "FLY_API_TOKEN holds"),
        ({"token": "\ud800geheim"}, "FLY_API_TOKEN holds"),
        ({"api_url": "ftp://x"}, "must start with http://"),
        ({"api_url": "redis://u:geheim@h"}, "'redis://h': it must start with http://"),
        ({"api_url": "https://u:geheim@h"}, "'https://h' with a user, a password or a query: leave it out"),
        ({"regions": "fra"}, r"regions=\['fra'\]"),
    ],
)
def test_wrong_values_are_told_without_their_secrets(given, said):
    with pytest.raises(SettingsError, match=said) as told:
        read_settings(environ=FULL, **given)
    assert "geheim" not in str(told.value)


@pytest.mark.parametrize("name", ["app", "image", "api_url"])
def test_what_is_no_text_is_told_with_its_name_and_value(name):
    with pytest.raises(SettingsError, match=f"^{name} is 3: it must be a text$"):
        read_settings(environ=FULL, **{name: 3})
    assert read_settings(environ=FULL, **{name: ""}) == read_settings(environ=FULL)  # as if it had been left out


@pytest.mark.parametrize("name", ["token", "redis_url", "secret"])
def test_what_is_no_text_and_may_be_a_secret_is_told_with_its_type(name):
    with pytest.raises(SettingsError, match=f"^{name} is of the type bytes: it must be a text$"):
        read_settings(environ=FULL, **{name: b"geheim"})


def test_the_key_depends_on_the_token_unless_there_is_a_secret():
    key = read_settings(environ=FULL).key
    assert key != read_settings(environ={**FULL, "FLY_API_TOKEN": "other"}).key
    with_secret = {**FULL, "FLYEXECUTOR_SECRET": GOOD}
    assert read_settings(environ=with_secret).key == read_settings(environ={**with_secret, "FLY_API_TOKEN": "x"}).key
    given = read_settings(secret=OTHER, environ={**with_secret, "FLYEXECUTOR_KEY": "00ff"})
    assert given.key == derive_key(OTHER, "tasks")


def test_a_machine_signs_with_the_key_that_it_was_given():
    assert read_settings(environ={**FULL, "FLYEXECUTOR_KEY": "00ff"}).key == b"\x00\xff"


@pytest.mark.parametrize("between", [";", " ; ", ";\n"])
def test_further_secrets_verify_too_each_in_its_place_and_once(between):
    token = "FlyV1 fm2_lJPECAAAAA,fm2_lJPETjgyNz"
    fallbacks = between.join((token, GOOD, FULL["FLY_API_TOKEN"], "", GOOD))
    settings = read_settings(environ={**FULL, "FLYEXECUTOR_SECRET_FALLBACKS": fallbacks})
    assert settings.key == read_settings(environ=FULL).key
    assert settings.fallbacks == (derive_key(token, "tasks"), derive_key(GOOD, "tasks"))
    assert read_settings(environ=FULL).fallbacks == ()


def test_a_call_that_names_another_app_uses_the_redis_of_its_machine_unless_there_is_one_of_the_users():
    here = {**FULL, "FLYEXECUTOR_REDIS_URL": "redis://of-the-machine:1"}
    assert read_settings(environ=here).redis_url == FULL["REDIS_URL"]
    assert read_settings(environ={**here, "REDIS_URL": ""}).redis_url == "redis://of-the-machine:1"


def test_doctor_says_where_the_key_comes_from_and_how_many_others_verify(monkeypatch):
    for name, value in {**FULL, "FLYEXECUTOR_SECRET_FALLBACKS": f"{GOOD};{OTHER}"}.items():
        monkeypatch.setenv(name, value)
    check = check_settings(Where(None, None))
    assert check.detail.endswith("the signing key comes from the token; further keys that verify: 2")
    monkeypatch.delenv("FLYEXECUTOR_SECRET_FALLBACKS")
    assert check_settings(Where(None, None)).detail.endswith("the signing key comes from the token")


WEAK = {
    "geheim": "has 6 characters, of at least 22:",
    "changeme": "has 8",
    "0123456789012345678901": "repeats itself or counts,",
    "abcdefghijklmnopqrstuvwxyz": "repeats itself",
    "zyxwvutsrqponmlkjihgfedcba": "repeats itself",
    "a" * 64: "repeats itself",
    "geheim" * 8: "repeats itself",
    f"{GOOD}\udcff": "holds bytes that are no UTF-8",
    f"{GOOD};": "holds a ; which stands between two secrets",
}


@pytest.mark.parametrize("weak", WEAK)
def test_a_secret_that_can_be_guessed_is_refused_with_how_to_make_one_and_not_shown(weak):
    remedy = r'make one with python -c "import secrets; print\(secrets\.token_urlsafe\(32\)\)"$'
    wrong = [
        ("FLYEXECUTOR_SECRET", {"secret": weak}),
        ("FLYEXECUTOR_SECRET", {"environ": {"FLYEXECUTOR_SECRET": weak}}),
    ]
    if ";" not in weak:
        fallbacks = {"FLYEXECUTOR_SECRET_FALLBACKS": f"{GOOD};{weak}"}
        wrong.append(("secret 2 of FLYEXECUTOR_SECRET_FALLBACKS", {"environ": fallbacks}))
    for name, told in wrong:
        with pytest.raises(SettingsError, match=f"^{name} {WEAK[weak]}.*{remedy}") as refused:
            read_settings(**{**told, "environ": {**FULL, **told.get("environ", {})}})
        assert weak not in str(refused.value)


def test_what_people_generate_is_taken():
    made = (secrets.token_hex(16), secrets.token_urlsafe(16), secrets.token_urlsafe(32), str(uuid.uuid4()))
    for secret in (*made, base64.b64encode(os.urandom(24)).decode(), "correct horse battery staple"):
        assert read_settings(environ={**FULL, "FLYEXECUTOR_SECRET": secret}).key == derive_key(secret, "tasks")


MACHINE = {
    "FLYEXECUTOR_KEY": "00ff",
    "FLYEXECUTOR_LANE": "{}",
    "FLY_APP_NAME": "tasks",
    "FLY_MACHINE_ID": "m",
    "FLYEXECUTOR_REDIS_URL": "redis://h:1",
}


def test_in_a_machine_all_but_the_token_comes_from_its_environment():
    settings = machine_settings({**MACHINE, "FLY_IMAGE_REF": "own-image", "FLY_API_TOKEN": "t", "FLY_REGION": "fra"})
    assert (settings.app, settings.token, settings.redis_url) == ("tasks", "", "redis://h:1")
    assert (settings.image, settings.regions, settings.key) == ("own-image", (), b"\x00\xff")
    assert settings.api_url == "https://api.machines.dev"
    assert machine_settings(MACHINE).image == ""
    assert (machine_settings(MACHINE).fallbacks, read_settings(environ={**FULL, **MACHINE}).fallbacks) == ((), ())
    ring = {**MACHINE, "FLYEXECUTOR_FALLBACK_KEYS": "01 02"}
    for told in (machine_settings(ring), read_settings(environ={**FULL, **ring})):
        assert (told.key, told.fallbacks) == (b"\x00\xff", (b"\x01", b"\x02"))


@pytest.mark.parametrize("name", MACHINE)
def test_what_lacks_a_part_of_that_environment_is_no_machine_of_ours(name):
    assert machine_settings({key: value for key, value in MACHINE.items() if key != name}) is None


def test_nothing_secret_is_shown():
    shown = repr(read_settings(environ=FULL))
    assert "geheim" not in shown
    assert "fm2" not in shown
    assert (
        shown == "<Settings app='tasks' api='https://api.machines.dev' redis='redis://host:6379/0' image='own-image'>"
    )


def test_an_address_on_the_internet_without_tls_is_warned_of_once(caplog, monkeypatch):
    monkeypatch.setattr("flyexecutor.settings._warned", set())
    for _ in range(2):
        read_settings(
            environ={**FULL, "REDIS_URL": "redis://u:geheim@redis.example.com", "FLY_API_HOSTNAME": "http://a.b"}
        )
        read_settings(environ={**FULL, "REDIS_URL": "rediss://u:geheim@redis.example.com"})
        read_settings(environ=FULL)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "REDIS_URL is redis",
        "FLY_API_HOSTNAME is http",
    ]
    assert "redis://redis.example.com: its password and all calls can be read" in caplog.text
    assert "geheim" not in caplog.text
