"""What a call finds where a person would type: nobody, and an error that says so."""

import io
import os
import sys
from typing import Any, NoReturn

_NOBODY = "in a call nobody can type"
_INSTEAD = (
    "to debug a function, call it here, or with a ThreadPoolExecutor; on a machine, print() goes to future.logs()"
)


class NoTerminal(io.TextIOWrapper):
    """Standard input, empty; a line of it can't be had."""

    def readline(self, *_: Any) -> NoReturn:
        """For `input()` and pdb. No EOFError: pdb would take it for a "quit"."""
        raise RuntimeError(f"{_NOBODY}: give what input() asks for as an argument; {_INSTEAD}")


def _breakpoint(*args: Any, **kwargs: Any) -> Any:
    if os.environ.get("PYTHONBREAKPOINT", "") in {"", "pdb.set_trace"}:
        raise RuntimeError(
            f"breakpoint(): {_NOBODY}; {_INSTEAD}, and PYTHONBREAKPOINT in `env` names another debugger (0: none)"
        )
    return sys.__breakpointhook__(*args, **kwargs)


def take_away() -> None:
    """From now on, in this process."""
    sys.stdin = NoTerminal(sys.stdin.buffer)
    sys.breakpointhook = _breakpoint
