"""A long run on a tiny denoiser: memory, open files and disk stay as they were near its beginning.

300 steps; with SEPPO_RELIABILITY=long 5,000.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from pathlib import Path

import pytest
from tiny import TinyDenoiser, examples

from seppo_core import train
from seppo_core.data import in_memory
from seppo_core.runs.run import Run
from seppo_core.settings import from_dict
from seppo_core.training.config import SePPOConfig

STEPS = 5000 if os.environ.get("SEPPO_RELIABILITY") == "long" else 300
WARM = 100
"""The step whose memory the last one's is held against."""
CAPACITY = 4
CHECKPOINTS = 2
"""How many a run directory holds at most."""
MOST_FILES = {"weights": CHECKPOINTS, "state": 2 * CHECKPOINTS, "pool": CAPACITY * CHECKPOINTS}
"""Of each folder; a state is a file of tensors and one that lists what belongs to it."""


@pytest.fixture
def process():
    return pytest.importorskip("psutil").Process()


def test_a_long_run_leaks_neither_memory_nor_files_and_fills_no_disk(tmp_path, process):
    before = open_handles(process)
    run = Run(tmp_path / "run")
    dataset = in_memory(examples(6))
    dataset.held_out = in_memory(examples(2))
    memory, handles = {}, {}
    for report in train(TinyDenoiser(), dataset, config(run.directory)):
        if report.step in (WARM, STEPS):
            memory[report.step] = settled_memory(process)
            handles[report.step] = open_handles(process)
        if report.step % 50 == 0:
            found = files(run.directory)
            assert all(found[folder] <= most for folder, most in MOST_FILES.items()), found

    grown = memory[STEPS] / memory[WARM] - 1
    assert abs(grown) < 0.02, memory
    assert handles[STEPS] == handles[WARM]
    assert open_handles(process) == before

    text = (run.directory / "metrics.jsonl").read_text("utf-8")
    assert [json.loads(line)["step"] for line in text.splitlines()] == list(range(1, STEPS + 1))
    assert len(run.metrics()) == run.step() == STEPS
    assert len(run.snapshot_steps()) <= CAPACITY
    assert run.state().step == STEPS


def config(directory: Path) -> SePPOConfig:
    """All that a run writes, often: checkpoints, pool entries, previews, the held-out margin."""
    return from_dict(
        SePPOConfig,
        {
            "steps": STEPS,
            "batch_size": 2,
            "references": {"snapshot_every": 10, "capacity": CAPACITY, "sampling_steps": 2},
            "lora": {"rank": 2},
            "run": {
                "directory": str(directory),
                "checkpoint_every": 50,
                "preview_every": 25,
                "held_out_every": 20,
            },
        },
    )


def settled_memory(process) -> int:
    """Resident bytes once garbage is collected and, on Linux, free pages went back to the system."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
    return process.memory_info().rss


def open_handles(process) -> int:
    return process.num_handles() if sys.platform == "win32" else process.num_fds()


def files(directory: Path) -> dict[str, int]:
    """How many files each folder of a run holds."""
    return {
        folder: sum(path.is_file() for path in (directory / folder).rglob("*"))
        for folder in MOST_FILES
    }
