"""Part of `make check`: has anything that the image installs a known vulnerability? Asked where a database answers."""

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parent.parent / "worker" / "requirements.txt"
PATIENCE = 3  # seconds for each answer,
LIMIT = 60.0  # and for all


def verdict(told: str) -> tuple[int, str]:
    """The exit status, and what to print, for what pip-audit has told as JSON: nothing, if it got no answer."""
    try:
        packages = json.loads(told)["dependencies"]
    except ValueError:
        packages = []
    bad = [
        f"{one['name']} {one['version']}: {flaw['id']}, cured in {', '.join(flaw['fix_versions']) or 'no version'}"
        for one in packages
        for flaw in one.get("vulns", ())
    ]
    seen = sum("vulns" in one for one in packages)
    if bad:
        return 1, "\n".join([*bad, "make lock takes newer versions"])
    if not seen:
        return 0, "audit: skipped, no database of vulnerabilities answers here"
    return 0, f"audit: of {seen} packages (of {len(packages)}) no vulnerability is known"


def main() -> int:
    """Run it. pip-audit resolves nothing: the lock is whole."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--requirement", str(LOCK)]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", str(PATIENCE)]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT).stdout
    except subprocess.TimeoutExpired:
        told = ""
    status, text = verdict(told)
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
