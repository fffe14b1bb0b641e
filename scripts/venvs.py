"""Virtual environments that set themselves up: creation, a torch that fits the machine, a log of pip's words.

Standard library only, so that it runs on a bare Python 3.10 to 3.13 on Linux, macOS and Windows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOG_NAME = "seppo-setup.log"
STAMP_NAME = "seppo-setup.json"
CPU_TORCH = "torch==2.13.0+cpu"
"""A CPU build some pip configurations offer (find-links, a mirror); PyPI itself has none for Linux."""


class SetupError(RuntimeError):
    """A set-up step failed; the message says which and where its log is."""


@dataclass(frozen=True)
class Venv:
    """One environment; all paths are derived from its folder."""

    path: Path

    @property
    def bin(self) -> Path:
        return self.path / ("Scripts" if os.name == "nt" else "bin")

    @property
    def python(self) -> Path:
        return self.bin / ("python.exe" if os.name == "nt" else "python")

    def script(self, name: str) -> Path:
        return self.bin / (f"{name}.exe" if os.name == "nt" else name)

    @property
    def log(self) -> Path:
        return self.path / LOG_NAME

    @property
    def stamp(self) -> Path:
        return self.path / STAMP_NAME

    def read_stamp(self) -> dict:
        return json.loads(self.stamp.read_text("utf-8")) if self.stamp.is_file() else {}

    def site_packages(self) -> Path:
        return Path(self.output("import sysconfig; print(sysconfig.get_path('purelib'))"))

    def output(self, code: str) -> str:
        done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def has(self, modules: Sequence[str]) -> bool:
        """True if every module really imports there (an installed but broken one does not count)."""
        return imports(self.python, modules)

    def try_run(self, *command: str | Path) -> bool:
        """Run a command with its output in the log; True if it succeeded."""
        environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUTF8": "1"}
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n$ {' '.join(map(str, command))}\n")
            log.flush()
            return not subprocess.run(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
            ).returncode

    def try_pip(self, *arguments: str | Path) -> bool:
        return self.try_run(self.python, "-m", "pip", *arguments)

    def pip_install(self, *arguments: str | Path) -> None:
        """Install, or raise SetupError with the end of the log."""
        if not self.try_pip("install", *arguments):
            raise self.failure(f"pip install {' '.join(map(str, arguments))}")

    def own(self, tool: str, package: str) -> None:
        """Install a command into this venv even if a reused Python has it: its script is run here."""
        if not self.script(tool).exists():
            self.pip_install("--ignore-installed", "--no-deps", package)

    def failure(self, step: str) -> SetupError:
        tail = self.log.read_text("utf-8", errors="replace").splitlines()[-40:]
        return SetupError("\n".join([*tail, "", f"{step} failed; the whole log is {self.log}"]))


def say(words: str) -> None:
    print(f"[set-up] {words}", flush=True)


def imports(python: str | Path, modules: Sequence[str]) -> bool:
    done = subprocess.run([python, "-c", f"import {', '.join(modules)}"], capture_output=True)
    return done.returncode == 0


def fingerprint(*parts: str) -> str:
    return hashlib.sha256("\0".join((*parts, sys.version)).encode()).hexdigest()[:16]


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Hold a lock file for the duration, so that two set-ups never write to one environment."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as handle:
        if os.name == "nt":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)
                    break
                except OSError:
                    continue  # LK_LOCK gives up after ten seconds
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def create(path: Path, reuse: Sequence[str] = ()) -> Venv:
    """A fresh venv at `path`; it sees the running Python's packages if all of `reuse` import there."""
    shared = bool(reuse) and imports(sys.executable, reuse)
    say(f"creating {path} with Python {sys.version.split()[0]}")
    options = ["--clear", *(["--system-site-packages"] if shared else [])]
    done = subprocess.run(
        [sys.executable, "-m", "venv", *options, path], capture_output=True, text=True
    )
    if done.returncode:
        raise SetupError(
            f"{sys.executable} -m venv {path} failed; on Debian and Ubuntu install python3-venv.\n"
            f"{done.stdout}{done.stderr}"
        )
    venv = Venv(path)
    if shared and not venv.has(reuse):
        inherit(venv, reuse)
    return venv


def inherit(venv: Venv, modules: Sequence[str]) -> None:
    """Let a venv made from inside another venv see that one's packages, as `modules` live there."""
    code = f"import os, {modules[0]} as m; print(os.path.dirname(os.path.dirname(m.__file__)))"
    parent = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    (venv.site_packages() / "seppo_parent.pth").write_text(f"{parent}\n", "utf-8")


def has_gpu() -> bool:
    """True if an NVIDIA or AMD driver is installed; asks no GPU package."""
    windows_driver = Path(os.environ.get("SYSTEMROOT", "C:/Windows")) / "System32/nvcuda.dll"
    drivers = [Path("/proc/driver/nvidia/version"), Path("/dev/kfd"), windows_driver]
    return shutil.which("nvidia-smi") is not None or any(driver.exists() for driver in drivers)


Attempt = Callable[[Venv, Sequence[str]], bool]


def pip_cpu_build(venv: Venv, packages: Sequence[str]) -> bool:
    return venv.try_pip("install", CPU_TORCH)


def uv_cpu_build(venv: Venv, packages: Sequence[str]) -> bool:
    return uv(venv, "cpu", packages)


def uv_gpu_build(venv: Venv, packages: Sequence[str]) -> bool:
    return uv(venv, "auto", packages)


def uv(venv: Venv, backend: str, packages: Sequence[str]) -> bool:
    """uv knows PyTorch's own indexes and picks the build for the named backend."""
    return venv.try_pip("install", "uv") and venv.try_run(
        venv.python, "-m", "uv", "pip", "install", "--python", venv.python,
        f"--torch-backend={backend}", *packages,
    )  # fmt: skip


def plain_pip(venv: Venv, packages: Sequence[str]) -> bool:
    if sys.platform == "linux" and not has_gpu():
        say("no CPU build of torch could be had: pip now fetches the CUDA build, several GB")
    return venv.try_pip("install", *packages)


def torch_attempts() -> dict[str, Attempt]:
    """Ways to get torch on this machine, best first; the first that works is taken."""
    plain = {"the build pip offers": plain_pip}
    if has_gpu():
        return {"the build for this machine's GPU, through uv": uv_gpu_build} | plain
    if sys.platform != "linux":
        return plain  # PyPI's builds for macOS and Windows carry no CUDA
    return {
        "a CPU build through pip": pip_cpu_build,
        "a CPU build through uv": uv_cpu_build,
    } | plain


def install_torch(venv: Venv, packages: Sequence[str] = ("torch",)) -> str:
    """Install torch (and what else is named); return which way worked, "reused" if it was there.

    "a CPU build through pip" brings torch alone, whatever else `packages` names.
    """
    if venv.has(packages):
        say(f"reusing torch {venv.output('import torch; print(torch.__version__)')}")
        return "reused"
    for way, attempt in torch_attempts().items():
        say(f"installing {' '.join(packages)}: trying {way}")
        if attempt(venv, packages) and venv.has(["torch"]):
            return way
    raise venv.failure("installing torch")


def keep_torch(venv: Venv) -> list[str | Path]:
    """pip options that forbid any later install from replacing the torch that is there."""
    version = venv.output("import importlib.metadata as m; print(m.version('torch'))")
    constraints = venv.path / "seppo-constraints.txt"
    constraints.write_text(f"torch=={version}\n", "utf-8")
    return ["--constraint", constraints]
