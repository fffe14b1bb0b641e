"""Runs a benchmark inside the test environment of each ComfyUI found, in a process of its own, on one thread by default."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20


def on_each_host(
    file: str,
    about: str,
    measure: Callable[[Any, int], None],
    rounds: int = 0,
    only_first: bool = False,
) -> None:
    """`measure(host, rounds)` gets a host started in its process; `rounds` is a default, 0 for none to choose."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--host", type=Path, help=argparse.SUPPRESS)
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds)
    options = parser.parse_args()
    count = getattr(options, "rounds", 0)
    if options.host:
        return _inside(options.host, measure, count)
    sys.path.insert(0, str(ROOT / "scripts"))
    from hosts import find_hosts, host_python

    hosts = find_hosts()
    if not hosts:
        sys.exit("no ComfyUI found: put one at ~/comfy/ComfyUI or name it in COMFYUI_PATH")
    for host in hosts[:1] if only_first else hosts:
        command = [host_python(host).python, file, "--host", host.path]
        command += ["--rounds", count] if rounds else []
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        subprocess.run(list(map(str, command)), check=True, env=os.environ | threads)


def _inside(path: Path, measure: Callable[[Any, int], None], rounds: int) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "hosts"))
    import inprocess

    with tempfile.TemporaryDirectory() as scratch:
        measure(inprocess.start(path, inprocess.prepare_base(Path(scratch).resolve())), rounds)


def version_of(host: Any) -> str:
    return ".".join(map(str, host.version))


def peak_bytes() -> int:
    """The most memory this process had since `reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise SystemExit("this system does not tell a process's peak memory")


def reset_peak() -> None:
    """What was freed goes back to the system first (glibc keeps it), for it would be taken again unseen."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def apart(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What `work` returns, done by a copy of this process, so that every point starts from the same memory."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(work()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    found = os.read(reading, MIB)  # blocks until the child has written or ended
    os.close(reading)
    os.waitpid(child, 0)
    if not found:
        raise SystemExit("a measurement failed; what went wrong stands above")
    return json.loads(found)
