"""CPython's own tests of an executor, imported from an interpreter that ships them, against ours.

What can't apply is listed with its reason. Without the tests this file is skipped (Debian has them in the package
libpython3.X-testsuite, which `make test` installs where it may).
"""

import functools
import gc
import importlib
import sys
import tempfile
import unittest
from pathlib import Path
from typing import ClassVar

import pytest

from flyexecutor import FlyMachineExecutor, LocalFly
from tests import tasks

SUITE = "test.test_concurrent_futures"
DEBIAN = Path(f"/usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}/test")
MIXINS = {  # ours: the module that has it (one file in Python 3.11), its name
    "Executor": ("executor", "ExecutorTest"),
    "Shutdown": ("test_shutdown", "ExecutorShutdownTest"),
    "Wait": ("test_wait", "WaitTests"),
    "AsCompleted": ("test_as_completed", "AsCompletedTests"),
    "Initializer": ("test_init", "InitializerMixin"),
}
BY_NAME = "a subprocess imports the executor from concurrent.futures by its class's name"
NOT_OURS = {
    "test_interpreter_shutdown": BY_NAME,
    "test_submit_after_interpreter_shutdown": BY_NAME,
    "test_hang_gh83386": BY_NAME,
    "test_hang_issue39205": BY_NAME,
    "test_cancel_futures": "wants a call to have begun when shutdown follows at once; ours may cancel all",
}


def find_suite():
    """The folder to import CPython's tests from, if this interpreter lacks them and Debian's has them."""
    try:
        importlib.import_module(SUITE)
    except ImportError:
        pass
    else:
        return None
    if not (DEBIAN / "test_concurrent_futures.py").exists() and not (DEBIAN / "test_concurrent_futures").exists():
        pytest.skip("no interpreter here ships CPython's tests", allow_module_level=True)
    folder = tempfile.mkdtemp(prefix="cpython-tests-")
    Path(folder, "test").symlink_to(DEBIAN)  # this one package of it, not its standard library
    for name in [name for name in sys.modules if name.split(".")[0] == "test"]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    return folder


FOLDER = find_suite()


def find(module, name):
    try:
        return getattr(importlib.import_module(f"{SUITE}.{module}"), name)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(SUITE), name)


def names_of(mixin):
    return {name for name in dir(mixin) if name.startswith("test")}


class OnMachines(unittest.TestCase):
    """What CPython's own pools get from ExecutorMixin."""

    worker_count = 3
    options: ClassVar[dict[str, object]] = {}
    fly: LocalFly

    @classmethod
    def setUpClass(cls):
        # Of its own: its machines import CPython's tests from where they were found.
        cls.fly = cls.enterClassContext(LocalFly(rate_limits=False))

    @property
    def executor_type(self):
        return functools.partial(FlyMachineExecutor, local=self.fly, idle_timeout=5.0)

    def setUp(self):
        # Some collect all garbage again and again: what the rest of the suite has loaded is none of theirs.
        gc.freeze()
        self.addCleanup(gc.unfreeze)
        self.executor = self.executor_type(max_workers=self.worker_count, **self.options)

    def create_event(self):  # Python 3.14 asks for one that its calls can wait for
        folder = self.enterContext(tempfile.TemporaryDirectory())
        return tasks.LockEvent(Path(folder, "event"))

    def tearDown(self):
        self.executor.shutdown()


def make_test(label, mixin):
    not_ours = {n: unittest.skip(NOT_OURS[n])(getattr(mixin, n)) for n in names_of(mixin) if n in NOT_OURS}
    # Methods are taken one by one: InitializerMixin has a setUp for CPython's pools.
    ours = {n: vars(mixin).get(n) or getattr(mixin, n) for n in names_of(mixin)}
    options = {"initializer": find("test_init", "init"), "initargs": ("initialized",)} if label == "Initializer" else {}
    return type(f"{label}Test", (OnMachines,), {"__module__": __name__, "options": options, **ours, **not_ours})


for _label, (_module, _name) in MIXINS.items():
    globals()[f"{_label}Test"] = make_test(_label, find(_module, _name))


def test_each_mixin_is_found_and_has_tests():
    assert all(names_of(find(module, name)) for module, name in MIXINS.values())


def test_what_is_listed_as_not_ours_exists():
    known = set().union(*(names_of(find(module, name)) for module, name in MIXINS.values()))
    assert set(NOT_OURS) - known <= {"test_hang_issue39205"}  # in some versions
