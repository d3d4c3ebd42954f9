import pytest

from flyexecutor.errors import SettingsError
from flyexecutor.settings import read_settings, redact

FULL = {
    "FLY_TASKS_APP": "tasks",
    "FLY_API_TOKEN": "FlyV1 fm2_a,fm2_b",
    "REDIS_URL": "redis://default:geheim@host:6379/0",
    "FLY_IMAGE_REF": "own-image",
}


def test_everything_can_come_from_the_environment():
    settings = read_settings(environ={**FULL, "FLY_REGION": "fra"})
    assert (settings.app, settings.token, settings.image) == ("tasks", "FlyV1 fm2_a,fm2_b", "own-image")
    assert (settings.api_url, settings.regions) == ("https://api.machines.dev", ("fra",))


def test_arguments_go_before_the_environment_and_worker_image_before_the_own_image():
    settings = read_settings(app="mine", environ={**FULL, "WORKER_IMAGE": "worker"})
    assert (settings.app, settings.image) == ("mine", "worker")


def test_all_that_is_missing_is_named_at_once():
    with pytest.raises(SettingsError) as told:
        read_settings(environ={})
    for name in ("FLY_TASKS_APP", "FLY_API_TOKEN", "REDIS_URL", "WORKER_IMAGE", "local=True"):
        assert name in str(told.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"redis_url": "http://u:geheim@h"}, "must start with redis://"),
        ({"redis_url": "redis://u:geheim/x@h:1"}, "%2F"),
        ({"redis_url": "redis://u:geheim#x@h:1"}, "%2F"),
        ({"redis_url": "redis://u:[geheim@h:1"}, "%2F"),
        ({"redis_url": "geheim@h:1"}, "must start with redis://"),
        ({"api_url": "ftp://x"}, "must start with http://"),
        ({"regions": "fra"}, r"regions=\['fra'\]"),
    ],
)
def test_wrong_values_are_told_without_their_secrets(given, said):
    with pytest.raises(SettingsError, match=said) as told:
        read_settings(environ=FULL, **given)
    assert "geheim" not in str(told.value)


def test_the_key_depends_on_the_token_unless_there_is_a_secret():
    key = read_settings(environ=FULL).key
    assert key != read_settings(environ={**FULL, "FLY_API_TOKEN": "other"}).key
    with_secret = {**FULL, "FLYEXECUTOR_SECRET": "s"}
    assert read_settings(environ=with_secret).key == read_settings(environ={**with_secret, "FLY_API_TOKEN": "x"}).key


def test_a_machine_signs_with_the_key_that_it_was_given():
    assert read_settings(environ={**FULL, "FLYEXECUTOR_KEY": "00ff"}).key == b"\x00\xff"


def test_nothing_secret_is_shown():
    shown = repr(read_settings(environ=FULL))
    assert "geheim" not in shown
    assert "fm2" not in shown
    assert redact("rediss://u:p@h:1/2") == "rediss://h:1/2"
    assert redact("redis://u:p/x@y@h:1/2?password=p") == "redis://h:1/2"
    assert redact("redis://h:1/2?password=p@y") == "redis://..."
