"""Small changes of the Lua scripts, against the store's tests: `python -m tests.mutants_lua [--file F] [--line N]`.

By hand, not in CI. Prints what no test noticed, and ends with 1 if any of that is not listed as equivalent in
docs/mutants.md. The scripts are changed in memory: each change has a process of its own, forked from one that has
collected the tests. Two of these run at a time, each with a Redis of its own.
"""

import argparse
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from _pytest.main import pytest_runtestloop as run_collected_tests  # by its own name it would be a hook of this plugin

from flyexecutor.local.redis import start_server
from flyexecutor.store.scripts import script

FOLDER = Path(__file__).parent.parent / "flyexecutor" / "store" / "lua"
EQUIVALENT = Path(__file__).parent.parent / "docs" / "mutants.md"
TESTS = (
    "tests/store/test_calls.py",
    "tests/store/test_places.py",
    "tests/store/test_resting.py",
    "tests/store/test_damage.py",
    "tests/store/test_transitions.py",
    "tests/store/test_call_machine.py",
    "tests/fleet/test_lists.py",
)
OPTIONS = (
    "-x",
    "-s",
    "-k",
    "not fake",
    "--assert=plain",
    "-p",
    "pytest_timeout",
    "-p",
    "no:terminal",
    "-o",
    "addopts=",
)
REDIS = SimpleNamespace(redis_url="")
EXAMPLES = "15"
PROCESSES = 2
PATIENCE = 10.0  # times what the tests take without any change: one that makes a script run for ever is noticed too

# What is put for what, each where it stands alone: one mutant per place.
SWAPS = (
    (r"==", "~="),
    (r"~=", "=="),
    (r"<=", "<"),
    (r"(?<![<~=>])<(?!=)", "<="),
    (r">=", ">"),
    (r"(?<![<~=>-])>(?!=)", ">="),
    (r"\band\b", "or"),
    (r"\bor\b", "and"),
    (r"\bnot ", ""),
    (r"(?<=[\w)\]]) \+ (?=[\w(])", " - "),
    (r"(?<=[\w)\]]) - (?=[\w(])", " + "),
    (r"(?<=[\w)\]]) \* (?=[\w(])", " / "),
    (r"math\.max\b", "math.min"),
    (r"math\.min\b", "math.max"),
    (r"math\.ceil\b", "math.floor"),
    (r"(?<![\w.\[-])0(?![\w.])", "1"),
    (r"(?<![\w.\[-])1(?![\w.])", "0"),
    (r"\btrue\b", "false"),
    (r"\bfalse\b", "true"),
    (r"'XX', ", ""),
    (r"'GT', ", ""),
    (r"'HSETNX'", "'HSET'"),
    (r"'-inf'", "'+inf'"),
    (r"'(QUEUED|RUNNING|CANCELLED|FAILED|LOST|KILLED)'", "'SUCCEEDED'"),
    (r"'(state|attempt|losses|watch|pieces|kill|raised|expires|parts|bigger|outcome|noted|peak|before)'", "'other'"),
    (r"':(\w+):'", "':other:'"),
    (r"\bDAY\b", "0"),
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one line."""

    file: str
    line: int  # from 1
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before.strip()} -> {self.after.strip() or '(deleted)'}"

    @property
    def known_as(self) -> str:
        """How the list of the equivalent names it: without the line's number, which changes."""
        return f"{self.file}: `{self.before.strip()}` -> `{self.after.strip()}`"


def mutants(file: Path) -> Iterator[Mutant]:
    """The changes of a script."""
    for number, line in enumerate(file.read_text().splitlines(), 1):
        seen = {line}
        for after in changes(line):
            if after not in seen:
                seen.add(after)
                yield Mutant(file.name, number, line, after)


def changes(line: str) -> Iterator[str]:
    code = re.split(r"\s*--", line)[0]
    comment = line[len(code) :]
    text = code.strip()
    if not text:
        return
    # A statement that has no value: without it.
    whole = re.fullmatch(r"[\w.]+\(.*\)", text) and text.count("(") == text.count(")")
    if (whole and not text.startswith("return")) or re.match(r"return\b(?!.*\bend$)", text):
        yield ""
    # The statement behind a condition, or a condition that always or never holds.
    if found := re.match(r"(\s*)(if|elseif) (.*?) then\b(.*)", code):
        indent, word, condition, rest = found.groups()
        for instead in ("true", "false", *halves(condition)):
            yield f"{indent}{word} {instead} then{rest}{comment}"
    for pattern, instead in SWAPS:
        for found in re.finditer(pattern, code):
            yield code[: found.start()] + instead + code[found.end() :] + comment


def halves(condition: str) -> Iterator[str]:
    """The condition without one of its parts."""
    for word in (" and ", " or "):
        parts = condition.split(word)
        for n in range(len(parts) if len(parts) > 1 else 0):
            rest = word.join(parts[:n] + parts[n + 1 :])
            if rest.count("(") == rest.count(")"):
                yield rest


class Trial:
    """Tries mutants, one at a time, on a Redis of its own."""

    def __init__(self, session: pytest.Session, patience: float) -> None:
        self._session, self._patience = session, patience
        self._folder = tempfile.TemporaryDirectory()
        self._start()

    def _start(self) -> None:
        self._redis = start_server(Path(self._folder.name), "tested", 0, None)

    def begin(self, mutant: Mutant | None) -> None:
        """Start the tests of a mutant; None: of the scripts as they are."""
        self.mutant, self._deadline = mutant, time.monotonic() + self._patience
        self._child = os.fork()
        if self._child == 0:
            failed = True
            try:
                REDIS.redis_url = f"redis://:tested@127.0.0.1:{self._redis.port}/0"
                if mutant:
                    put_in(mutant)
                run_collected_tests(self._session)
                failed = self._session.testsfailed > 0
            finally:
                os._exit(failed)  # an exception too is a test that failed: nothing of the parent may go on here

    def survived(self) -> bool | None:
        """Whether no test has noticed. None: they still run."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) == 0
        if time.monotonic() < self._deadline:
            return None
        print(f"{self.mutant}: no end after {self._patience:.0f} s", file=sys.stderr)
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        self._redis.process.kill()  # a script may run for ever
        self._redis.process.wait()
        self._start()
        return False

    def close(self) -> None:
        self._redis.process.kill()
        self._redis.process.wait()
        self._folder.cleanup()


class InPlaceOfTheTests:
    """A plugin: once all tests are collected, tries the mutants."""

    def __init__(self, chosen: Sequence[Mutant]) -> None:
        self._chosen = chosen
        self.left: list[Mutant] | None = None  # None: the tests fail without any change

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Instead of running the tests."""
        begun = time.monotonic()
        if list(survivors(session, [None], patience=600.0)):
            self.left = []
            for one in survivors(session, self._chosen, patience=PATIENCE * (time.monotonic() - begun)):
                self.left.append(one)
                print(one, flush=True)
        return True


def survivors(session: pytest.Session, chosen: Sequence[Mutant | None], *, patience: float) -> Iterator[Mutant | None]:
    """Those that no test notices."""
    free, busy = [Trial(session, patience) for _ in range(PROCESSES)], []
    waiting = list(reversed(chosen))
    try:
        while waiting or busy:
            while waiting and free:
                free[-1].begin(waiting.pop())
                busy.append(free.pop())
            time.sleep(0.005)
            for trial in list(busy):
                if (survived := trial.survived()) is not None:
                    busy.remove(trial)
                    free.append(trial)
                    if survived:
                        yield trial.mutant
    finally:
        for trial in (*free, *busy):
            trial.close()


@pytest.fixture(scope="session")
def local_fly() -> SimpleNamespace:
    """In place of the package's own: no Machines API, and a Redis that runs already."""
    return REDIS


def put_in(mutant: Mutant) -> None:
    """Have the store's scripts be those of the mutant."""
    texts = {file.stem: file.read_text() for file in FOLDER.glob("*.lua")}
    lines = texts[mutant.file.removesuffix(".lua")].splitlines()
    lines[mutant.line - 1] = mutant.after
    texts[mutant.file.removesuffix(".lua")] = "\n".join(lines) + "\n"
    for name in texts:
        script(name).assemble(name, texts.__getitem__)


def main() -> int:
    """Try all that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", help="only this one, as lib_settle.lua")
    parser.add_argument("--line", type=int, help="only this line")
    parser.add_argument("--list", action="store_true", help="tell the changes, try none")
    asked = parser.parse_args()
    every = [one for file in sorted(FOLDER.glob(asked.file or "*.lua")) for one in mutants(file)]
    chosen = [one for one in every if asked.line in {None, one.line}]
    if asked.list:
        print(*chosen, sep="\n")
        return 0
    equivalent = EQUIVALENT.read_text() if EQUIVALENT.exists() else ""
    tried = [one for one in chosen if one.known_as not in equivalent]
    os.environ.update(MODEL_EXAMPLES=EXAMPLES, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    begun, plugin = time.monotonic(), InPlaceOfTheTests(tried)
    pytest.main([*OPTIONS, *TESTS], plugins=[plugin, sys.modules[__name__]])
    if plugin.left is None:
        print("the tests fail without any change")
        return 1
    seconds = time.monotonic() - begun
    print(f"{len(plugin.left)} of {len(tried)} not noticed, {len(chosen) - len(tried)} equivalent; {seconds:.0f} s")
    return 1 if plugin.left else 0


if __name__ == "__main__":
    sys.exit(main())
