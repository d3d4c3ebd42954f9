"""Whether the code of an image has been edited. On Fly an image is what it is; here it is folders of this computer, and
whoever edits a module and starts his program again expects that machines have the new one. No thread.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

FOLDERS = 1000  # that are looked at, in some milliseconds; who starts it in his home folder has more
INSTALLED = {"pyvenv.cfg", "os.py"}  # a virtual environment and Python's own library have these: nobody edits them

PACKAGES = {"site-packages", "dist-packages", "lib-dynload"}


def edition(image: Mapping[str, Any]) -> bytes:
    """The same until a Python file is edited, added or removed, in the image's folder or where its Python looks."""
    searched = image["env"]["PYTHONPATH"].split(os.pathsep)
    edited = [folder for folder in searched if os.path.basename(folder) not in PACKAGES]
    files = sorted(_sources([image["cwd"], *edited]))
    return hashlib.blake2b(repr(files).encode()).digest()


def _sources(folders: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    """Path, time and size of each source file below folders, the upper ones first."""
    waiting = deque(dict.fromkeys(folders))
    for _ in range(FOLDERS):
        if not waiting:
            return
        try:
            with os.scandir(waiting.popleft()) as found:
                entries = list(found)
        except OSError:
            continue
        if any(entry.name in INSTALLED for entry in entries):
            continue
        for entry in entries:
            try:
                if entry.name.endswith(".py"):
                    stat = entry.stat()
                    yield entry.path, stat.st_mtime_ns, stat.st_size
                elif entry.name.isidentifier() and entry.is_dir(follow_symlinks=False):  # others can't be imported
                    waiting.append(entry.path)
            except OSError:  # it has just been removed, or nobody may look
                continue
