"""Look for known weaknesses in the packages that the pack adds: `python scripts/audit.py`.

Every package in `.venv`, which holds requirements.txt and all extras, is looked up by pip-audit, which has
an environment of its own. Status 0: none known. 1: some are, and listed. 2: nobody could be asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from setup_env import ROOT, setup
from venvs import SetupError, Venv, create, only_one

CLEAN, FOUND, UNKNOWN = 0, 1, 2
OURS = "seppo"


def auditor() -> Venv:
    with only_one(ROOT / ".venv-audit.lock"):
        venv = Venv(ROOT / ".venv-audit")
        if not venv.stamp.is_file():
            venv = create(venv.path)
            venv.pip_install("pip-audit")
            venv.stamp.write_text("{}", "utf-8")
        return venv


def verdict(output: str, words: str) -> tuple[int, list[str]]:
    """Status and lines, from what pip-audit gave and what it said."""
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        return UNKNOWN, [
            words.strip()[-2000:],
            "The advisories could not be asked: NOTHING WAS AUDITED.",
        ]
    asked = [package for package in packages if "vulns" in package]
    passed_over = [p["name"] for p in packages if "vulns" not in p and p["name"] != OURS]
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, "
        f"mended in {', '.join(found['fix_versions']) or 'no version'}"
        for package in asked
        for found in package["vulns"]
    ]
    status = FOUND if lines else CLEAN
    if passed_over:
        lines.append(f"not looked up, for the service does not know them: {', '.join(passed_over)}")
    if not asked:
        return UNKNOWN, [*lines, "No package could be looked up: NOTHING WAS AUDITED."]
    return status, [*lines, f"{len(asked)} packages looked up"]


def main() -> int:
    try:
        audit, audited = auditor(), setup(["dev"])
    except SetupError as error:
        print(error, file=sys.stderr)
        return UNKNOWN
    command = [audit.script("pip-audit"), "--path", audited.site_packages(), "--format", "json"]
    done = subprocess.run(
        [*command, "--progress-spinner", "off"], capture_output=True, text=True, cwd=ROOT
    )
    status, lines = verdict(done.stdout, done.stderr)
    print(*lines, sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
