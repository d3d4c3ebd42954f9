"""tqdm counts what comes."""

import io

from tqdm import tqdm

from flyexecutor import progress, progress_bar
from tests import tasks


def test_a_bar_over_map_counts_each_item(executor):
    with tqdm(executor.map(tasks.increment, range(30)), total=30, file=io.StringIO()) as bar:
        assert list(bar) == list(range(1, 31))
    assert bar.n == 30


def test_what_a_call_notes_is_shown_on_the_bar_s_line_and_moves_no_cursor(executor, tmp_path):
    gate = tasks.Gate.make(tmp_path)

    def work():
        progress(1, 2, "half\n\x1b[2Jdone" + 1000 * "!")
        gate.enter()

    class Terminal(io.StringIO):
        def write(self, text):
            if "done!!" in text and "done!!" not in self.getvalue():
                gate.wait_for_entry()  # the call does not end before its note was seen
                gate.open()
            return super().write(text)

    shown = Terminal()
    list(progress_bar([executor.submit(work)], file=shown, ncols=200))
    assert r"half\n\x1b[2Jdone!!" in shown.getvalue()
    assert not {"\n", "\x1b"} & set(shown.getvalue().rstrip("\n"))
    assert 101 * "!" not in shown.getvalue()
