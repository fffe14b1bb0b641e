"""Check the pack as ComfyUI's registry would: `comfy node validate`, from comfy-cli in `.venv-tools`; and its page with
`comfy-test lint`, whose rules keep packs apart that share one page.

The first command ends well even when it warns, so its words are what counts.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setup_env import ROOT
from venvs import SetupError, Venv, create, only_one

TOOLS = ("comfy-cli", "comfy-test")
VERDICT = "All validation checks passed"
BAD_WORDS = ("warning", "error", "failed")
OF_THE_PAGE = ("__init__.py", "pyproject.toml", "nodes", "web")
"""What the lint looks at; it would read every file of `.venv`, too."""


def tools() -> Venv:
    with only_one(ROOT / ".venv-tools.lock"):
        venv = Venv(ROOT / ".venv-tools")
        if venv.read_stamp() != {"tools": [*TOOLS]}:
            venv = create(venv.path)
            venv.pip_install(*TOOLS)
            venv.stamp.write_text(json.dumps({"tools": TOOLS}), "utf-8")
        return venv


def is_valid(comfy: Path) -> bool:
    command = [comfy, "--skip-prompt", "--no-enable-telemetry", "node", "validate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    words = done.stdout + done.stderr
    print(words, end="")
    return not (
        done.returncode or VERDICT not in words or any(bad in words.lower() for bad in BAD_WORDS)
    )


def shares_the_page(comfy_test: Path) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        for name in OF_THE_PAGE:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, Path(folder) / name)
        command = [comfy_test, "lint", "--check", "javascript", "--strict", folder]
        return subprocess.run(command).returncode == 0


def main() -> int:
    try:
        venv = tools()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    is_good = is_valid(venv.script("comfy"))
    return 0 if shares_the_page(venv.script("comfy-test")) and is_good else 1


if __name__ == "__main__":
    sys.exit(main())
