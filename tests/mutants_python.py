"""What `mutmut run` has left, against the list of the equivalent in docs/mutants.md: `python -m tests.mutants_python`.

Prints what no test noticed and the list lacks, and ends with 1 if there is any.
"""

import re
import subprocess
import sys
from pathlib import Path

EQUIVALENT = Path(__file__).parent.parent / "docs" / "mutants.md"
MUTMUT = Path(sys.executable).parent / "mutmut"


def ask(*words: str) -> str:
    """What mutmut answers."""
    return subprocess.run([MUTMUT, *words], check=True, capture_output=True, text=True).stdout


def known_as(name: str) -> str:
    """How the list names a change: as it names those of the Lua scripts (mutants_lua.py)."""
    before, after = ("".join(re.findall(rf"^{sign} +(.*)", ask("show", name), re.MULTILINE)) for sign in (r"-", r"\+"))
    return f"{name.split('.')[-2]}.py: `{before}` -> `{after}`"


def main() -> int:
    """Compare the two."""
    # Those that were noticed are not named; "timeout": the tests hang, which is noticed too.
    survived = re.findall(r"^ +(\S+): (?!timeout)", ask("results"), re.MULTILINE)
    listed = EQUIVALENT.read_text()
    left = [one for one in map(known_as, survived) if one not in listed]
    print(*left, sep="\n", end="\n" if left else "")
    print(f"{len(left)} not noticed, {len(survived) - len(left)} equivalent")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
