"""What the pack loads and does, where no linter can tell; what it may import and use is in pyproject.toml."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="reading pyproject.toml needs Python 3.11")

ROOT = Path(__file__).resolve().parents[2]
PACK = [ROOT / "__init__.py", *(ROOT / "seppo_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
HEAVY = set(TOOLS["ruff"]["lint"]["flake8-tidy-imports"]["banned-module-level-imports"])
(COMFY,) = (
    set(contract["forbidden_modules"])
    for contract in TOOLS["importlinter"]["contracts"]
    if "ComfyUI" in contract["name"]
)


def printed(code: str) -> str:
    """By a Python of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stderr == ""
    return done.stdout.strip()


def test_importing_the_core_loads_no_heavy_package():
    """Ruff sees imports at a module's top, but not those in a class or after `try`."""
    code = f"""
import importlib, pkgutil, sys
import seppo_core
for module in pkgutil.walk_packages(seppo_core.__path__, "seppo_core."):
    if module.name not in ("seppo_core.views.plots", "seppo_core.views.grid"):
        importlib.import_module(module.name)
print(*sorted(set(sys.modules) & {HEAVY | COMFY}))
"""
    assert printed(code) == ""


def test_root_imports_nothing_until_the_host_asks():
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("pack", {str(ROOT / "__init__.py")!r})
pack = importlib.util.module_from_spec(spec)
before = set(sys.modules)
spec.loader.exec_module(pack)
print(*sorted(set(sys.modules) - before))
"""
    assert printed(code) == ""


def found(wrong, nodes) -> list[str]:
    """File, line and text of the nodes of the pack that are wrong."""
    return [
        f"{file.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)[:60]}"
        for file in PACK
        for node in nodes(ast.parse(file.read_text("utf-8")))
        if wrong(node)
    ]


def test_nothing_acts_when_it_is_imported():
    """At the top of a module only definitions, constants and imports stand, no bare calls."""

    def is_bare_call(node: ast.AST) -> bool:
        return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)

    assert found(is_bare_call, lambda tree: tree.body) == []


def test_models_are_read_from_safetensors_alone():
    """A tokenizer reads JSON and text, whatever lies beside them."""

    def may_unpickle(node: ast.AST) -> bool:
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        is_safe = "CLIPTokenizer" in called or "use_safetensors=True" in ast.unparse(node)
        return called.endswith(".from_pretrained") and not is_safe

    assert found(may_unpickle, ast.walk) == []
