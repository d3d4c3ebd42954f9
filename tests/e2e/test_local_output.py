"""What machines print on the terminal of the process that uses a local Fly: whole lines, beside progress bars."""

import os
import pty
import re
import subprocess
import sys
import termios

WAIT = 60.0
BAR = """
from flyexecutor import FlyMachineExecutor, LocalFly, progress_bar

with FlyMachineExecutor(local=LocalFly(rate_limits=False, show_output={show_output}), max_workers=2) as ex:
    futures = [ex.submit(print, f"line {{n}} of a call") for n in range(20)]
    for future in progress_bar(futures, mininterval=0):
        future.result()
"""
QUIET = """
from flyexecutor import FlyMachineExecutor, LocalFly

with FlyMachineExecutor(local=LocalFly(show_output=False), max_workers=1) as ex:
    ex.submit(print, "not to be shown").result()
    print(ex.submit(pow, 2, 5).result())
"""
LINE = """
import sys
from flyexecutor import FlyMachineExecutor

def draw():
    for n in (10, 50, 100):
        print(f"\\r{n} %", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)

with FlyMachineExecutor(local=True, max_workers=1) as ex:
    ex.submit(draw).result()
"""


def run_in_terminal(script):
    """The lines that somebody sees in the end, as a terminal shows them."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    with subprocess.Popen([sys.executable, "-c", script], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        printed = b""
        while True:
            try:
                printed += os.read(ours, 65536)  # may end within a character
            except OSError:
                break  # everybody has closed it
        assert process.wait(WAIT) == 0, printed
    os.close(ours)
    return show(printed.decode())


def show(text):
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\w*|[\s\S]", text):
        if part == "\n":
            row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
        elif part == "\r":
            column = 0
        elif part == "\x1b[K":
            rows[row] = rows[row][:column]
        elif part == "\x1b[A":
            row = max(0, row - 1)
        else:
            assert not part.startswith("\x1b"), part
            rows[row] = rows[row].ljust(column)[:column] + part + rows[row][column + 1 :]
            column += 1
    return [row.rstrip() for row in rows]


def test_lines_of_machines_stand_whole_above_a_progress_bar_that_goes_on():
    rows = run_in_terminal(BAR.format(show_output=True))
    lines = [row for row in rows if "of a call" in row]
    assert all(re.fullmatch(r"\[[0-9a-f]{14}\] line \d+ of a call", line) for line in lines), rows
    assert len(lines) == 20
    (bar,) = [row for row in rows if "/20" in row]
    assert re.search(r"20(\.0)?/20", bar)


def test_with_show_output_false_a_terminal_has_the_bar_alone():
    rows = [row for row in run_in_terminal(BAR.format(show_output=False)) if row]
    assert len(rows) == 1
    assert re.search(r"20(\.0)?/20", rows[0])


def test_show_output_can_be_switched_off_where_the_executor_is_made():
    ran = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, timeout=WAIT, check=False)
    assert (ran.stdout, ran.stderr) == ("32\n", "")


def test_a_bar_that_a_call_draws_is_one_line_of_its_last_state():
    ran = subprocess.run([sys.executable, "-c", LINE], capture_output=True, text=True, timeout=WAIT, check=False)
    assert re.fullmatch(r"\[[0-9a-f]{14}\] 100 %\n", ran.stderr)
