"""What the source may not use, read from it: nothing is unpickled, evaluated or given to a shell.

Names are followed through imports under other names; what is reached through an object of unknown kind is not.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_boundaries import PACK, ROOT

OTHERS = [
    file for name in ("demo", "scripts", "benchmarks") for file in (ROOT / name).rglob("*.py")
]

UNPICKLING = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
PROGRAMS = {"subprocess", "multiprocessing", "pty", "pip", "ensurepip", "ctypes", "runpy", "code"}
"""Modules that start programs or install packages: not within the pack."""

FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    *("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("numpy.load", "numpy.lib.format.read_array", "pandas.read_pickle", "tempfile.mktemp"),
    *("os.system", "os.popen", "shutil.unpack_archive", "xml.sax.parse"),
}
NOT_IN_PACK = (
    *("torch.save", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.startfile"),
    "asyncio.create_subprocess",
)
"""What writes pickles or starts programs; names begin so."""
ONLY_WITH = {"torch.load": "weights_only", ".from_pretrained": "use_safetensors"}
"""What may be called with this argument true alone; a leading dot: of any object, within the pack."""
TEXT_ALONE = (".CLIPTokenizer.from_pretrained",)
"""Reads JSON and text, whatever lies beside them."""


def names_in(tree: ast.Module) -> dict[str, str]:
    """What the file calls builtins and imported things -> their full dotted names."""
    found = {name: name for name in dir(builtins)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                found[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """`np.load` -> "numpy.load"; ".load" for what is reached through anything but a module."""
    if isinstance(node, ast.Attribute):
        return f"{full_name(node.value, names)}.{node.attr}".removeprefix("builtins.")
    name = names.get(node.id, "") if isinstance(node, ast.Name) else ""
    return name.removeprefix("builtins.")


def imported(node: ast.AST) -> list[str]:
    """The top-level modules that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    is_absolute = isinstance(node, ast.ImportFrom) and node.level == 0
    return [node.module.split(".")[0]] if is_absolute else []


def dangers(source: str, is_pack: bool) -> Iterator[str]:
    """Line and name of every use of what may not be used, whether it is called there or not."""
    tree = ast.parse(source)
    names = names_in(tree)
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        name = full_name(node, names)
        words = (
            {k.arg: ast.unparse(k.value) for k in called[id(node)].keywords}
            if id(node) in called
            else {}
        )
        wrong = [m for m in imported(node) if m in UNPICKLING or is_pack and m in PROGRAMS]
        if name in FORBIDDEN or is_pack and name.startswith(NOT_IN_PACK):
            wrong.append(name)
        if words.get("shell", "False") != "False":
            wrong.append("shell")
        for rule, wanted in ONLY_WITH.items():
            applies = is_pack and name.endswith(rule) if rule.startswith(".") else name == rule
            if applies and words.get(wanted) != "True" and not name.endswith(TEXT_ALONE):
                wrong.append(f"{name} without {wanted}=True")
        yield from (f"line {getattr(node, 'lineno', 0)}: {what}" for what in wrong)


def found_in(files: list[Path], is_pack: bool) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} {danger}"
        for file in files
        for danger in dangers(file.read_text("utf-8"), is_pack)
    ]


def test_the_pack_unpickles_evaluates_and_starts_nothing():
    assert len(PACK) > 50
    assert not (found := found_in(PACK, is_pack=True)), "\n".join(found)


def test_everything_beside_the_pack_unpickles_and_evaluates_nothing():
    assert len(OTHERS) > 15
    assert not (found := found_in(OTHERS, is_pack=False)), "\n".join(found)


@pytest.mark.parametrize(
    ("source", "danger"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("def f():\n    import dill as d", "dill"),
        ("eval('1')", "eval"),
        ("run = exec", "exec"),
        ("import builtins as b\nb.eval('1')", "eval"),
        ("from builtins import eval as e\ne('1')", "eval"),
        ("import torch\ntorch.load('a')", "torch.load without weights_only=True"),
        (
            "import torch\ntorch.load('a', weights_only=False)",
            "torch.load without weights_only=True",
        ),
        ("from torch import load as get\nget('a')", "torch.load without weights_only=True"),
        ("import torch as t\nf = t.load", "torch.load without weights_only=True"),
        ("import numpy as np\nnp.load('a')", "numpy.load"),
        ("import yaml\nyaml.load(x)", "yaml.load"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp"),
        ("import os\nos.system('a')", "os.system"),
        ("from os import popen\npopen('a')", "os.popen"),
        ("import os\nos.execv('a', [])", "os.execv"),
        ("import subprocess", "subprocess"),
        ("import pip._internal", "pip"),
        ("run('a', shell=True)", "shell"),
        ("run('a', shell=x)", "shell"),
        ("Pipe.from_pretrained('a')", ".from_pretrained without use_safetensors=True"),
    ],
)
def test_the_reader_of_dangers_sees(source, danger):
    found = [line.partition(": ")[2] for line in dangers(source, is_pack=True)]
    assert found == [danger]


@pytest.mark.parametrize(
    "source",
    [
        "network.eval()",
        "import re\nre.compile('a')",
        "import torch\ntorch.load('a', weights_only=True)",
        "import json\njson.load(file)",
        "run('a', shell=False)",
        "from safetensors.torch import load, save",
        "Pipe.from_pretrained('a', use_safetensors=True)",
        "transformers.CLIPTokenizer.from_pretrained('a')",
        "import subprocess_tee",
    ],
)
def test_the_reader_of_dangers_passes(source):
    assert not list(dangers(source, is_pack=True))
