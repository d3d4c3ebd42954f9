"""A machine's files (`config.files`), written anew at each cold boot. Owns the folders of all machines that have some.

On Fly they lie at their guest_path. Machines of one computer share its file system, where /etc/hosts is somebody
else's: here the root of those paths is a folder of the machine's own, whose path its program finds in FLY_FILES. It
goes with the machine, and all of them with the run folder.
"""

import base64
import binascii
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from flyexecutor.local.problems import Refused

VARIABLE = "FLY_FILES"


def check_files(files: Iterable[Mapping[str, Any]]) -> None:
    """Raises Refused for a file that can't be written, whatever the secrets are."""
    for file in files:
        path = file.get("guest_path", "")
        parts = PurePosixPath(path).parts
        if not path.startswith("/") or path.endswith("/") or ".." in parts or "\0" in path:
            raise _invalid(f"guest_path must be the absolute path of a file, without '..', not {path[:200]!r}")
        if ("raw_value" in file) == ("secret_name" in file):
            raise _invalid(f"{path} needs one of raw_value and secret_name")
        if "raw_value" in file:
            _decode(file["raw_value"], f"{path}: raw_value")


def folder_of(run: Path, machine_id: str) -> Path:
    """Where a machine's files are."""
    return run / f"{machine_id}.files"


def write_files(folder: Path, files: Iterable[Mapping[str, Any]], secrets: Mapping[str, str]) -> None:
    """Write what has been checked, in place of what is there. Raises OSError, or Refused for what a secret is not."""
    if folder.exists():
        shutil.rmtree(folder)
    for file in files:
        path = folder / file["guest_path"].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_contents(file, secrets))
        if mode := file.get("mode", 0) & 0o777:
            path.chmod(mode)


def remove_files(folder: Path) -> None:
    """Remove what can be removed, if anything is there; what links lead to stays."""
    shutil.rmtree(folder, ignore_errors=True)


def _contents(file: Mapping[str, Any], secrets: Mapping[str, str]) -> bytes:
    if "raw_value" in file:
        return _decode(file["raw_value"], "raw_value")
    name = file["secret_name"]
    if name not in secrets:
        raise _invalid(f"{file['guest_path']}: the app has no secret {name!r}")
    return _decode(secrets[name], f"{file['guest_path']}: the secret {name}")


def _decode(value: str, what: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):  # not the value: it may be a secret
        raise _invalid(f"{what} is not base64") from None


def _invalid(text: str) -> Refused:
    return Refused(400, f"invalid_argument: config.files: {text}")
