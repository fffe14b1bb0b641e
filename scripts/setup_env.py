"""Make or refresh the project's own environment: `python scripts/setup_env.py [EXTRA ...]`.

Installs this tree (editable) with the named extras, by default `dev`, into `.venv` beside pyproject.toml.
Does nothing when the environment already fits.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from venvs import SetupError, Venv, create, fingerprint, install_torch, keep_torch, only_one, say

ROOT = Path(__file__).resolve().parent.parent
TOOLS = {"dev": {"pytest": "pytest", "ruff": "ruff", "lint-imports": "import-linter"}}
"""Commands an extra is run by, and the packages that bring them."""


def setup(extras: list[str], root: Path = ROOT) -> Venv:
    """The environment at `root`/.venv holding this tree, torch and the extras; quick if it does."""
    with only_one(root / ".venv.lock"):
        venv = Venv(root / ".venv")
        key = fingerprint((root / "pyproject.toml").read_text("utf-8"), str(root))
        stamp = venv.read_stamp()
        wanted = sorted({*extras, *stamp.get("extras", [])})
        if stamp == {"key": key, "python": sys.version, "extras": wanted} and venv.python.exists():
            return venv
        if stamp.get("python") != sys.version or not venv.python.exists():
            venv = create(venv.path, reuse=["torch"])
        venv.stamp.unlink(missing_ok=True)
        install_torch(venv)
        say(f"installing seppo[{','.join(wanted)}]")
        venv.pip_install(*keep_torch(venv), "--editable", f"{root}[{','.join(wanted)}]")
        for tools in (TOOLS.get(extra, {}) for extra in wanted):
            for tool, package in tools.items():
                venv.own(tool, package)
        stamp = {"key": key, "python": sys.version, "extras": wanted}
        venv.stamp.write_text(json.dumps(stamp, indent=2), "utf-8")
        return venv


def main() -> int:
    try:
        venv = setup(sys.argv[1:] or ["dev"])
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    say(f"ready: {venv.python}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
