"""Look up known vulnerabilities of what the pack adds: `pip-audit`, from an environment of its own.

Audited are the packages installed in `.venv`, which has every extra. The exit status is 1 if anything is
found, and 2 if no package could be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys

from setup_env import ROOT, setup
from venvs import SetupError, Venv, create, only_one

UNREACHABLE = 2


def auditor() -> Venv:
    with only_one(ROOT / ".venv-audit.lock"):
        venv = Venv(ROOT / ".venv-audit")
        if not venv.stamp.is_file():
            venv = create(venv.path)
            venv.pip_install("pip-audit")
            venv.stamp.write_text("{}", "utf-8")
        return venv


def main() -> int:
    try:
        packages = setup(["dev"]).site_packages()
        command = [auditor().script("pip-audit"), "--path", packages, "--format", "json"]
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    done = subprocess.run(
        [*command, "--progress-spinner", "off"], cwd=ROOT, capture_output=True, text=True
    )
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(done.stderr, "audit: pip-audit gave no answer", file=sys.stderr)
        return UNREACHABLE
    looked_up = [package for package in found if "skip_reason" not in package]
    for package in looked_up:
        for weakness in package["vulns"]:
            fixed = ", ".join(weakness["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {weakness['id']}, fixed in {fixed}")
    weak = sum(bool(package["vulns"]) for package in looked_up)
    print(
        f"audit: {len(looked_up)} of {len(found)} packages looked up, {weak} with known weaknesses"
    )
    if not looked_up:
        print("audit: the advisories could not be reached, so nothing is known", file=sys.stderr)
        return UNREACHABLE
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main())
