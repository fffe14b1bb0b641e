"""What the audit of dependencies concludes from pip-audit's answer."""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

from audit import CLEAN, FOUND, UNKNOWN, verdict  # noqa: E402


def answer(*packages: dict) -> str:
    return json.dumps({"dependencies": list(packages), "fixes": []})


SOUND = {"name": "numpy", "version": "2.0", "vulns": []}
WEAK = {"name": "pillow", "version": "9.0", "vulns": [{"id": "CVE-1", "fix_versions": ["9.1"]}]}
UNASKED = {"name": "torch", "skip_reason": "not found on PyPI"}


def test_packages_without_known_weakness_pass():
    status, lines = verdict(answer(SOUND, {"name": "seppo", "skip_reason": "editable"}), "")
    assert (status, lines) == (CLEAN, ["1 packages looked up"])


def test_a_known_weakness_is_named_with_what_mends_it():
    status, lines = verdict(answer(SOUND, WEAK), "")
    assert status == FOUND
    assert lines[0] == "pillow 9.0: CVE-1, mended in 9.1"


def test_what_was_not_looked_up_is_said():
    status, lines = verdict(answer(SOUND, UNASKED), "")
    assert status == CLEAN
    assert lines[0].endswith("does not know them: torch")


def test_an_audit_that_could_ask_nobody_is_no_clean_one():
    status, lines = verdict(answer(UNASKED), "No known vulnerabilities found")
    assert status == UNKNOWN and "NOTHING WAS AUDITED" in lines[-1]
    status, lines = verdict("", "ConnectionError: no route")
    assert status == UNKNOWN and "no route" in lines[0] and "NOTHING WAS AUDITED" in lines[-1]
