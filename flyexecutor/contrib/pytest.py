"""Pytest fixtures, found by pytest by themselves: test your app against real machines and a real Redis, locally.

def test_a_mail_is_sent(fly_executor):
    assert fly_executor.submit(send_email, "a@example.com", "Hi", "there").result(timeout=30)
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flyexecutor import FlyMachineExecutor, LocalFly

IMAGE = 0.1  # seconds; not 0: a new machine that can't be started yet is a thing to be met in tests


@pytest.fixture(scope="session")
def local_fly() -> "Iterator[LocalFly]":
    """A Machines API and a Redis on this computer, for the whole session; for speed without rate limits, and its images
    are there soon.
    """
    from flyexecutor import LocalFly  # noqa: PLC0415 - this plugin is loaded in every run of pytest

    with LocalFly(rate_limits=False, image=IMAGE) as fly:
        yield fly


@pytest.fixture
def fly_executor(local_fly: "LocalFly") -> "Iterator[FlyMachineExecutor]":
    """An executor whose machines are processes of this computer."""
    from flyexecutor import FlyMachineExecutor  # noqa: PLC0415 - see above

    with FlyMachineExecutor(local=local_fly, max_workers=2) as executor:
        yield executor
