"""The types of the public names, as mypy and pyright see them in strict mode."""

import json
import re
import subprocess
import sys
from pathlib import Path

USER_CODE = Path(__file__).parent / "user_code.py"
ROOT = Path(__file__).parents[2]
WRONG = {n for n, line in enumerate(USER_CODE.read_text().splitlines(), 1) if line.endswith("# error")}


def test_mypy_finds_what_is_wrong_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "--no-error-summary"]
    told = subprocess.run([*command, str(USER_CODE)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert not told.stderr
    assert {int(line) for line in re.findall(r"user_code\.py:(\d+): error", told.stdout)} == WRONG, told.stdout


def test_pyright_finds_what_is_wrong_and_nothing_else(tmp_path):
    settings = tmp_path / "pyrightconfig.json"
    (tmp_path / "user_code.py").write_text(USER_CODE.read_text())
    settings.write_text(json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(settings), "--pythonpath", sys.executable]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    found = answer["generalDiagnostics"]
    assert answer["summary"]["filesAnalyzed"] == 1
    assert {one["range"]["start"]["line"] + 1 for one in found} == WRONG, found
