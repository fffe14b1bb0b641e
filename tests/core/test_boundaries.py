"""Who may import what, read from the source: the core stays free of ComfyUI and loads lightly."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "seppo_core"
NODES = ROOT / "nodes"
PACK = [ROOT / "__init__.py", *sorted(CORE.rglob("*.py")), *sorted(NODES.rglob("*.py"))]

COMFY = {
    "app",
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "server",
}
COMFY_FILE = CORE / "denoisers" / "comfy.py"
HEAVY = {
    "accelerate",
    "av",
    "bitsandbytes",
    "datasets",
    "diffusers",
    "matplotlib",
    "peft",
    "prodigyopt",
    "pyarrow",
    "pytorch_optimizer",
    "schedulefree",
    "scipy",
    "torchvision",
    "transformers",
}
OWNERS = {CORE / "views" / "plots.py": {"matplotlib"}}
"""The one module that needs the package and may import it at its top."""


@dataclass(frozen=True)
class Import:
    file: Path
    line: int
    module: str
    """Top-level name of an absolute import; "" for a relative one."""
    target: str
    """For a relative import the path of the folder or file it reaches, from the root."""
    inside_function: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module or self.target}"


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"), filename=str(file))


def walk(node: ast.AST, inside_function: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below, with whether it runs only when a function is called; types-only code is left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child, inside_function
        function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from walk(child, inside_function or function)


def imports(file: Path, root: Path = ROOT) -> Iterator[Import]:
    for node, inside in walk(tree(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name.split(".")[0], "", inside)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield Import(file, node.lineno, node.module.split(".")[0], "", inside)
        elif isinstance(node, ast.ImportFrom):
            folder = file.parents[node.level - 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                target = (folder / name.replace(".", "/")).relative_to(root.parent)
                yield Import(file, node.lineno, "", target.as_posix(), inside)


@cache
def all_imports() -> list[Import]:
    return [found for file in PACK for found in imports(file)]


def below(file: Path, folder: Path) -> bool:
    return folder in file.parents


def listed(found: list) -> str:
    return "\n".join(map(str, found))


def test_pack_imports_itself_relatively_only():
    own = {"seppo_core", "seppo", ROOT.name} - {"nodes"}
    wrong = [found for found in all_imports() if found.module in own]
    assert not wrong, listed(wrong)


def test_core_never_imports_the_nodes():
    allowed = f"{ROOT.name}/seppo_core"
    wrong = [
        found
        for found in all_imports()
        if below(found.file, CORE) and found.target and not found.target.startswith(allowed)
    ]
    assert not wrong, listed(wrong)


def test_core_names_comfyui_in_one_file_and_inside_functions_only():
    wrong = [
        found
        for found in all_imports()
        if below(found.file, CORE)
        and found.module in COMFY
        and not (found.file == COMFY_FILE and found.inside_function)
    ]
    assert not wrong, listed(wrong)


def test_heavy_packages_load_only_where_they_are_needed():
    wrong = [
        found
        for found in all_imports()
        if found.module in HEAVY
        and not found.inside_function
        and found.module not in OWNERS.get(found.file, set())
    ]
    assert not wrong, listed(wrong)


def test_importing_the_core_loads_no_heavy_package():
    code = f"""
import sys
import seppo_core, seppo_core.__main__, seppo_core.data, seppo_core.denoisers.comfy
print(*sorted(set(sys.modules) & {HEAVY | COMFY}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_root_imports_nothing_until_the_host_asks():
    eager = [found for found in imports(ROOT / "__init__.py") if not found.inside_function]
    assert not eager, listed(eager)


def test_nothing_prints_or_acts_when_it_is_imported():
    """At the top of a module only definitions, constants and imports stand, no bare calls."""
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)[:60]}"
        for file in PACK
        for node in tree(file).body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    assert not wrong, listed(wrong)


@pytest.mark.parametrize(
    ("source", "module", "target", "inside"),
    [
        ("import comfy.sd", "comfy", "", False),
        ("def f():\n    from diffusers import UNet", "diffusers", "", True),
        ("from ..nodes import host", "", "pack/nodes", False),
        ("from .. import nodes", "", "pack/nodes", False),
        ("class A:\n    import comfy", "comfy", "", False),
        ("try:\n    import comfy\nexcept ImportError:\n    pass", "comfy", "", False),
    ],
)
def test_reader_of_imports_sees(tmp_path, source, module, target, inside):
    file = tmp_path / "pack" / "seppo_core" / "loss.py"
    file.parent.mkdir(parents=True)
    file.write_text(source, "utf-8")
    (found,) = imports(file, tmp_path / "pack")
    assert (found.module, found.target, found.inside_function) == (module, target, inside)
