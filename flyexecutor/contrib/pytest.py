"""Pytest fixtures, found by pytest by themselves: test your app against real machines and a real Redis, locally.

def test_a_mail_is_sent(fly_executor):
    assert fly_executor.submit(send_email, "a@example.com", "Hi", "there").result(timeout=30)
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flyexecutor import FlyMachineExecutor, LocalFly


@pytest.fixture(scope="session")
def local_fly() -> "Iterator[LocalFly]":
    """A Machines API and a Redis on this computer, for the whole session; without rate limits, for speed."""
    from flyexecutor import LocalFly  # noqa: PLC0415 - this plugin is loaded in every run of pytest

    with LocalFly(rate_limits=False) as fly:
        yield fly


@pytest.fixture
def fly_executor(local_fly: "LocalFly") -> "Iterator[FlyMachineExecutor]":
    """An executor whose machines are processes of this computer."""
    from flyexecutor import FlyMachineExecutor  # noqa: PLC0415 - see above

    with FlyMachineExecutor(local=local_fly, max_workers=2) as executor:
        yield executor
