"""Each argument with values of each kind: it is refused with an error that names argument and value, or is right."""

import functools
import inspect
import math
import re
import sys
import threading

import pytest

from flyexecutor import FlyMachineExecutor, LocalFly, Prices, Retry, SettingsError
from flyexecutor.options import read_warmup
from flyexecutor.payload.trust import Trust
from tests import tasks

GIVEN = {"app": "a", "token": "t", "redis_url": "redis://127.0.0.1:1/0", "image": "i"}
VALUES = (None, True, -1, 0, 1, 1.5, math.nan, math.inf, "", "3", "two words", b"3", [], ["3"], {}, {"A": 1}, ...)
NUMBERS = (1, 1.5)
VARIABLES = {"api_url": "FLY_API_HOSTNAME", "redis_url": "REDIS_URL", "call_id": "has the id", "batch_id": "has the id"}
SECRET = {"token", "redis_url", "secret", "env", "initargs"}

# Argument: those of the values above that it takes.
EXECUTOR = {
    "app": ("3", "two words"),
    "image": ("3", "two words"),
    "max_workers": (1,),
    "concurrency": (1,),
    "regions": (None, [], ["3"]),
    "guest": (None, {}, {"A": 1}),  # Fly has further words
    "env": (None, {}),
    "volume": (None,),
    "warm": (0, 1),
    "warmup": (None,),
    "idle_timeout": (None, 0, *NUMBERS),
    "max_lifetime": NUMBERS,
    "max_cost_per_hour": (None, *NUMBERS),
    "prices": (None,),
    "boot_timeout": NUMBERS,
    "retries": (None, 0, 1),
    "timeout": (None, *NUMBERS),
    "expires": (None, *NUMBERS),
    "result_ttl": NUMBERS,
    "max_payload": (1,),
    "ship": ([], {}),
    "initializer": (None,),
    "initargs": ([], ["3"], {}, {"A": 1}),
    "redis_url": (),
    "token": ("3", "two words"),
    "api_url": (None, ""),
    "encrypt": (None, True),
    "secret": (None, "", "Zy0uCkGJ3xWq8mSbnR1TfA5hVdE7oLpK"),
    "local": (None, True, "3"),
    "suspend_mb": (0, 1),
}
WITH_OPTIONS = {
    **{name: EXECUTOR[name] for name in ("retries", "timeout", "expires", "guest", "env", "regions", "volume")},
    "image": (None, "3", "two words"),
    "key": (None, "3", "two words"),
    "name": (None, "3", "two words"),
}
METHODS = {
    ("map", "timeout"): (None, True, -1, 0, *NUMBERS),
    ("map", "chunksize"): (True, 1),
    ("map", "buffersize"): (None, True, 1),
    ("flush", "timeout"): (None, 0, *NUMBERS),
    ("prepare", "number"): (0, 1),
    ("prepare", "timeout"): (0, *NUMBERS),
    ("reap", "older_than"): (0, *NUMBERS),
    ("set_limits", "max_workers"): (None, 1),
    ("set_limits", "max_cost_per_hour"): (None, *NUMBERS),
    ("schedule", "every"): (),
    ("schedule", "name"): (None, "3", "two words"),
    ("future", "call_id"): (),
    ("batch", "batch_id"): (),
}
FUNCTION = ("submit", "map", "map_unordered", "stream", "submit_batch", "schedule")


def same(one, other):
    return type(one) is type(other) and repr(one) == repr(other)


def wrong(table):
    return [
        pytest.param(name, value, id=f"{name}={value!r:.12}".replace("object a", "object"))
        for name, right in table.items()
        for value in VALUES
        if not any(same(value, one) for one in right)
    ]


def right(table):
    return [pytest.param(name, value, id=f"{name}={value!r}") for name, values in table.items() for value in values]


@pytest.fixture
def refused():
    """Looks that what is told names the argument and, unless it may be a secret, its value."""

    def refused(name, value, call):
        with pytest.raises((SettingsError, TypeError, ValueError, LookupError)) as told:
            call()
        text = str(told.value)
        assert name in text or VARIABLES.get(name, "-") in text
        if name == "env" and value == {"A": 1}:
            assert "env['A'] is 1" in text
        elif name in SECRET:
            assert value in (None, "") or type(value).__name__ in text or re.search("no address|of at least 22", text)
        elif value is not None and value != "":
            assert repr(value) in text or "API_HOSTNAME is '...'" in text  # which may be anything but an address
        assert "\n" not in text
        assert len(text) < 500

    return refused


@pytest.fixture
def executor(monkeypatch):
    for name in ("FLY_IMAGE_REF", "FLY_REGION", "FLY_API_HOSTNAME", "FLYEXECUTOR_SECRET", "FLYEXECUTOR_KEY"):
        monkeypatch.delenv(name, raising=False)
    made = FlyMachineExecutor(**GIVEN)
    yield made
    made.shutdown(wait=False)


@pytest.mark.parametrize(("method", "table"), [("__init__", EXECUTOR), ("with_options", WITH_OPTIONS)])
def test_no_argument_is_left_out_here(method, table):
    assert {"self", *table} == set(inspect.signature(getattr(FlyMachineExecutor, method)).parameters)


@pytest.mark.parametrize(("name", "value"), wrong(EXECUTOR))
def test_a_wrong_argument_of_an_executor_is_refused(name, value, refused, executor):
    refused(name, value, lambda: FlyMachineExecutor(**{**GIVEN, name: value}))


@pytest.mark.parametrize(("name", "value"), right(EXECUTOR))
def test_a_right_argument_of_an_executor_is_taken(name, value, executor):
    FlyMachineExecutor(**{**GIVEN, name: value}).shutdown(wait=False)


@pytest.mark.parametrize(("name", "value"), wrong(WITH_OPTIONS))
def test_a_wrong_option_is_refused(name, value, refused, executor):
    refused(name, value, lambda: executor.with_options(**{name: value}))


@pytest.mark.parametrize(("name", "value"), right(WITH_OPTIONS))
def test_a_right_option_is_taken(name, value, executor):
    executor.with_options(**{name: value})


def ask(executor, method, name, value):
    given = {"prepare": {"number": 1}, "schedule": {"every": "daily"}}.get(method, {})
    first = [tasks.increment] if method in {"map", "schedule"} else []
    if name in {"call_id", "batch_id"}:
        return getattr(executor, method)(value)
    return getattr(executor, method)(*first, **{**given, name: value})


@pytest.mark.parametrize(("named", "value"), wrong(METHODS))
def test_a_wrong_argument_of_a_method_is_refused(named, value, refused, executor):
    refused(named[1], value, lambda: ask(executor, *named, value))


@pytest.mark.parametrize(("named", "value"), [(named, value) for named in METHODS for value in METHODS[named]])
def test_a_right_argument_of_a_method_is_taken(named, value, executor, monkeypatch):
    monkeypatch.setattr(FlyMachineExecutor, "_stock", Taken())
    monkeypatch.setattr(FlyMachineExecutor, "_schedules", Taken())
    ask(executor, *named, value)


class Taken:
    """In place of what asks Fly: it is asked, so the argument was taken."""

    def __getattr__(self, name):
        return lambda *_, **__: None


@pytest.mark.parametrize("method", FUNCTION)
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_is_no_function_is_refused(method, value, executor):
    options = {"every": "daily"} if method == "schedule" else {}
    with pytest.raises(TypeError, match=f"{re.escape(repr(value))} is not callable"):
        getattr(executor, method)(value, **options)


@pytest.mark.parametrize("env", [{1: "a"}, {"A": b"1"}, {"": "a"}, {"A=B": "a"}, {"A": "\0"}, [("A", "1")]])
def test_an_environment_is_of_texts(env, executor):
    with pytest.raises(SettingsError, match="env"):
        executor.with_options(env=env)


def test_the_value_of_a_variable_is_told_unless_it_may_be_a_secret(executor):
    with pytest.raises(SettingsError, match=r"env\['A'\] is 1: it must be a text, as env=\{'A': '1'\}"):
        executor.with_options(env={"A": 1})
    with pytest.raises(SettingsError, match=r"env\['A'\] is of the type bytes") as told:
        executor.with_options(env={"A": b"geheim"})
    assert "geheim" not in str(told.value)


@pytest.mark.parametrize("name", sorted(SECRET))
def test_what_may_be_a_secret_is_not_told(name, executor):
    with pytest.raises(SettingsError) as told:
        FlyMachineExecutor(**{**GIVEN, name: b"geheim"})
    assert "geheim" not in str(told.value)


@pytest.mark.parametrize("given", [{"initargs": "geheim"}, {"env": [("A", "geheim")]}, {"env": {"A=geheim": "1"}}])
def test_what_was_mistyped_and_may_hold_a_secret_is_not_told(given):
    with pytest.raises(SettingsError, match=next(iter(given))) as told:
        FlyMachineExecutor(**GIVEN, initializer=print, **given)
    assert "geheim" not in str(told.value)


@pytest.mark.parametrize("value", [0, -1])
def test_too_few_workers_are_refused_in_the_words_of_cpython_and_ours(value):
    with pytest.raises(ValueError, match=f"max_workers is {value}: max_workers must be greater than 0"):
        FlyMachineExecutor(**GIVEN, max_workers=value)


@pytest.mark.parametrize("guest", [{"cpus": "two"}, {"cpus": 0}, {"cpus": 1.5}, {"memory_mb": "512"}, {"cpu_kind": 3}])
def test_a_guest_in_the_words_of_fly_has_numbers(guest):
    with pytest.raises(SettingsError, match=f"guest has {next(iter(guest))} {next(iter(guest.values()))!r}"):
        FlyMachineExecutor(**GIVEN, guest=guest)


@pytest.mark.parametrize("name", ["wait", "longest_wait"])
@pytest.mark.parametrize("value", [math.inf, math.nan, -1, "3", True, None])
def test_a_pause_of_a_retry_is_a_finite_number(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        Retry(**{name: value})


def test_objects_of_ours_and_modules_are_taken(executor):
    assert isinstance(LocalFly, type)
    FlyMachineExecutor(**GIVEN, prices=Prices(), ship=[sys.modules[__name__]], retries=Retry()).shutdown(wait=False)
    FlyMachineExecutor(**GIVEN, ship=(tasks,), initializer=print, warmup=print, local=False).shutdown(wait=False)


class Warm:
    def __call__(self): ...


def test_a_warmup_with_arguments_is_called_the_same_in_each_process_and_shows_none_of_them():
    trust = Trust(bytes(32), "a")
    for warmup, name in (
        (tasks.increment, "tests.tasks.increment"),
        (functools.partial(tasks.increment, "geheim"), "tests.tasks.increment"),
        (Warm(), "tests.test_arguments.Warm"),
    ):
        assert read_warmup(warmup, trust, ())[0] == name


def test_the_arguments_of_a_partial_function_that_can_not_be_pickled_are_not_shown(executor):
    future = executor.submit(functools.partial(tasks.increment, "geheim"), threading.Lock())
    assert future.exception().__notes__ == ["flyexecutor could not pickle the call of increment"]
