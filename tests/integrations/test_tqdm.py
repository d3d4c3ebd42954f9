"""tqdm counts what comes."""

import io

from tqdm import tqdm

from flyexecutor import progress_bar
from tests import tasks


def test_a_bar_over_map_counts_each_item(executor):
    with tqdm(executor.map(tasks.increment, range(30)), total=30, file=io.StringIO()) as bar:
        assert list(bar) == list(range(1, 31))
    assert bar.n == 30


def test_whole_calls_are_shown_as_whole_numbers(executor):
    shown = io.StringIO()
    futures = [executor.submit(tasks.increment, n) for n in range(3)]
    assert len(list(progress_bar(futures, file=shown))) == 3
    assert "3/3" in shown.getvalue()
    assert ".0/3" not in shown.getvalue()
