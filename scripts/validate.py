"""Check the pack as ComfyUI's registry would: `comfy node validate`, from comfy-cli in `.venv-tools`.

The command ends well even when it warns, so its words are what counts.
"""

from __future__ import annotations

import subprocess
import sys

from setup_env import ROOT
from venvs import SetupError, Venv, create, only_one

VERDICT = "All validation checks passed"
BAD_WORDS = ("warning", "error", "failed")


def tools() -> Venv:
    with only_one(ROOT / ".venv-tools.lock"):
        venv = Venv(ROOT / ".venv-tools")
        if not venv.stamp.is_file():
            venv = create(venv.path)
            venv.pip_install("comfy-cli")
            venv.stamp.write_text("{}", "utf-8")
        return venv


def main() -> int:
    try:
        comfy = tools().script("comfy")
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    command = [comfy, "--skip-prompt", "--no-enable-telemetry", "node", "validate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    words = done.stdout + done.stderr
    print(words, end="")
    bad = done.returncode or VERDICT not in words or any(bad in words.lower() for bad in BAD_WORDS)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
