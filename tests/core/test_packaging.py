"""What gets installed: the core alone, and nothing that would move the host's own packages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

import pytest
from setuptools import find_packages

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="reading pyproject.toml needs Python 3.11")

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
HOSTS_OWN = {"torch", "torchvision", "torchaudio", "numpy", "transformers", "diffusers", "einops"}


def package_name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0].lower()


def requirements(text: str) -> list[str]:
    return [line for line in (raw.split("#")[0].strip() for raw in text.splitlines()) if line]


def test_installing_brings_the_core_and_no_other_package():
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = find_packages(str(ROOT), include=include)
    assert "seppo_core" in packages and "seppo_core.data" in packages
    assert [name for name in packages if name.split(".")[0] != "seppo_core"] == []
    assert PROJECT["tool"]["setuptools"]["py-modules"] == []


def test_every_folder_of_the_core_is_a_package():
    folders = {file.parent for file in (ROOT / "seppo_core").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_the_pack_root_is_not_importable_so_that_nodes_stays_comfyuis():
    assert importlib.util.find_spec("seppo_core") is not None
    assert importlib.util.find_spec("nodes") is None
    assert str(ROOT) not in sys.path


def test_console_script_is_the_command_line_of_the_core():
    scripts = importlib.metadata.entry_points(group="console_scripts", name="seppo")
    assert [script.value for script in scripts] == ["seppo_core.__main__:main"]


def test_requirements_leave_the_hosts_own_packages_alone():
    wanted = requirements((ROOT / "requirements.txt").read_text("utf-8"))
    assert HOSTS_OWN.isdisjoint(map(package_name, wanted))
    assert wanted == ["matplotlib"]


def test_dependencies_have_no_upper_bound():
    project = PROJECT["project"]
    extras = [name for extra in project["optional-dependencies"].values() for name in extra]
    pinned = [name for name in [*project["dependencies"], *extras] if re.search("<|==|~=", name)]
    assert pinned == []


def test_registry_metadata_says_who_and_for_which_comfyui():
    assert PROJECT["tool"]["comfy"] == {
        "PublisherId": "seppo",
        "DisplayName": "SePPO",
        "requires-comfyui": ">=0.3.64",
    }
    assert "comfyui" not in PROJECT["project"]["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["project"]["version"])


def test_the_package_and_its_metadata_name_one_version():
    import seppo_core

    assert seppo_core.__version__ == PROJECT["project"]["version"]
