"""tqdm counts what comes."""

import io

from tqdm import tqdm

from tests import tasks


def test_a_bar_over_map_counts_each_item(executor):
    with tqdm(executor.map(tasks.increment, range(30)), total=30, file=io.StringIO()) as bar:
        assert list(bar) == list(range(1, 31))
    assert bar.n == 30
