"""The call forks, and returns in both processes: it is answered once, and those behind it with their own results."""

import pytest

from tests import tasks

WAIT = 30.0


@pytest.mark.parametrize(("end", "code"), [("return", 0), ("raise", 1), ("exit", 7)])
def test_calls_behind_one_that_forks_have_their_own_results(make_executor, end, code):
    executor = make_executor(max_workers=1)
    forks = executor.submit(tasks.fork_and, end)
    behind = [executor.submit(tasks.increment, n) for n in range(20)]
    assert forks.result(WAIT) == code
    assert [future.result(WAIT) for future in behind] == list(range(1, 21))
    assert forks.progress() is None


@pytest.mark.parametrize("end", ["return", "raise"])
def test_of_a_chunk_the_fork_of_an_item_runs_no_other_item(make_executor, tmp_path, end):
    path = tmp_path / "began"

    def fork(item):
        tasks.append_line(path, item)
        return tasks.fork_and(end)

    codes = list(make_executor(max_workers=1).map(fork, "abc", chunksize=3))
    assert codes == [int(end == "raise")] * 3
    assert path.read_text().split() == ["a", "b", "c"]
