"""What `make check` says of the packages of the image, and of a database that it can't reach."""

import json
import time

import pytest

from tests import audit

FINE = {"name": "redis", "version": "8.1.0", "vulns": []}
SKIPPED = {"name": "flask", "skip_reason": "Dependency not found on PyPI and could not be audited: flask (3.1.3)"}
BAD = {"name": "idna", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.7"], "aliases": []}]}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([FINE, FINE], 0, "of 2 packages (of 2)"),
        ([FINE, SKIPPED], 0, "of 1 packages (of 2)"),
        ([SKIPPED, SKIPPED], 0, "skipped"),
        ([FINE, SKIPPED, BAD], 1, "idna 1.0: PYSEC-1, cured in 3.7\nmake lock"),
    ],
)
def test_a_known_vulnerability_fails_and_no_answer_is_said_to_be_none(packages, status, said):
    code, text = audit.verdict(json.dumps({"dependencies": packages, "fixes": []}))
    assert code == status
    assert said in text


@pytest.mark.parametrize("told", ["", "ERROR:pip_audit._cli:Could not connect"])
def test_without_an_answer_it_is_skipped_in_one_line(told):
    code, text = audit.verdict(told)
    assert (code, text) == (0, "audit: skipped, no database of vulnerabilities answers here")


def test_where_nothing_can_be_reached_it_ends_soon(monkeypatch, capsys, closed_port):
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    begun = time.monotonic()
    assert audit.main() == 0
    assert time.monotonic() - begun < audit.LIMIT
    assert "skipped" in capsys.readouterr().out
