"""Finds ComfyUI on this machine and makes a test environment per release, away from the user's own.

The environments lie in the user's cache folder, `seppo-test-hosts/<version>-<hash>`.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from venvs import (
    SetupError,
    Venv,
    create,
    fingerprint,
    has_gpu,
    install_torch,
    keep_torch,
    only_one,
    say,
)

ROOT = Path(__file__).resolve().parent.parent
TORCH_FAMILY = ("torch", "torchvision", "torchaudio")
CPU_COMPANIONS = ("torchvision==0.28.0", "torchaudio==2.11.0")
"""Measured to import beside torch 2.13.0+cpu on ComfyUI 0.3.64 and 0.33.0 once `cut_cuda` ran."""
TEST_PACKAGES = ("pytest", "diffusers", "playwright", "pytorch-optimizer")
SETUP_VERSION = "1"
"""Raised when this file starts to build environments in another way."""


@dataclass(frozen=True)
class Host:
    """One ComfyUI checkout; `version` is what its comfyui_version.py says, e.g. "0.3.64"."""

    path: Path
    version: str


def find_hosts() -> list[Host]:
    """$COMFYUI_PATH's entries, else the host this pack is installed in, else ~/comfy/ComfyUI*."""
    listed = os.environ.get("COMFYUI_PATH", "")
    if listed:
        folders = [Path(entry).expanduser() for entry in listed.split(os.pathsep) if entry]
        missing = [str(folder) for folder in folders if not (folder / "main.py").is_file()]
        if missing:
            raise SetupError(f"COMFYUI_PATH names {missing}, which hold no main.py")
    elif ROOT.parent.name == "custom_nodes" and (ROOT.parent.parent / "main.py").is_file():
        folders = [ROOT.parent.parent]
    else:
        folders = sorted(main.parent for main in Path.home().glob("comfy/ComfyUI*/main.py"))
    return sorted((host_at(folder) for folder in folders), key=lambda host: parts(host.version))


def host_at(folder: Path) -> Host:
    source = (folder / "comfyui_version.py").read_text("utf-8")
    found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", source)
    if found is None:
        raise SetupError(f"{folder / 'comfyui_version.py'} names no version")
    return Host(folder.resolve(), found.group(1))


def parts(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def host_python(host: Host) -> Venv:
    """The environment in which this host and the tests run; made on first use, about two minutes."""
    requirements = requirements_of(host)
    key = fingerprint(SETUP_VERSION, *requirements, *TEST_PACKAGES)
    path = cache_folder() / f"{host.version}-{key}"
    with only_one(path.with_name(f"{path.name}.lock")):
        venv = Venv(path)
        if venv.stamp.is_file() and venv.python.exists():
            return venv
        say(f"preparing a test environment for ComfyUI {host.version}")
        venv = create(path, reuse=TORCH_FAMILY)
        if install_torch(venv, TORCH_FAMILY) == "a CPU build through pip":
            venv.pip_install("--no-deps", *CPU_COMPANIONS)
            cut_cuda(venv)
        wanted = path / "seppo-requirements.txt"
        wanted.write_text("\n".join([*requirements, *TEST_PACKAGES, ""]), "utf-8")
        say(f"installing the requirements of ComfyUI {host.version}")
        venv.pip_install(*keep_torch(venv), "--requirement", wanted)
        venv.own("pytest", "pytest")
        venv.stamp.write_text("{}", "utf-8")
        return venv


def cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "seppo-test-hosts"


def requirements_of(host: Host) -> list[str]:
    """What the host and this pack ask for, without the torch family and without comments."""
    texts = [(folder / "requirements.txt").read_text("utf-8") for folder in (host.path, ROOT)]
    lines = [line.split("#")[0].strip() for text in texts for line in text.splitlines()]
    return [
        line
        for line in lines
        if line and re.split(r"[^\w-]", line.lower(), maxsplit=1)[0] not in TORCH_FAMILY
    ]


def cut_cuda(venv: Venv) -> None:
    """Let CUDA builds of torchvision and torchaudio import beside a CPU torch, in this venv only.

    Their compiled parts go; the two operators that torchvision attaches Python kernels to are then
    declared by hand, just before it is first imported.
    """
    assert not has_gpu()
    site = venv.site_packages()
    compiled = [site / "torchvision" / name for name in ("_C.so", "image.so")]
    for library in [*compiled, *(site / "torchaudio").glob("lib/*.so")]:
        library.unlink(missing_ok=True)
    (site / "seppo_vision_operators.py").write_text(VISION_OPERATORS, "utf-8")
    (site / "seppo_vision_operators.pth").write_text("import seppo_vision_operators\n", "utf-8")


VISION_OPERATORS = '''\
"""Declares torchvision's two detection operators when torchvision is first imported."""
import sys


class DeclareBeforeTorchvision:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for operator in ("nms", "qnms"):
                torch.library.define(
                    f"torchvision::{operator}",
                    "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                )


sys.meta_path.insert(0, DeclareBeforeTorchvision())
'''


def main() -> None:
    for host in find_hosts():
        print(f"{host.version}\t{host.path}\t{host_python(host).python}")


if __name__ == "__main__":
    sys.exit(main())
