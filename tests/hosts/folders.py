"""Folders of drawn winners and of sets in a host, and the graph that encodes winners."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image


def draw(path: Path, caption: str | None = "a fox", seed: int = 0, size=(64, 64)) -> None:
    values = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, "utf-8")


@contextmanager
def sets_of(base: Path) -> Iterator[Path]:
    """The folder of all sets of marked pictures; emptied at the end."""
    folder = base / "output" / "seppo" / ".sets"
    yield folder
    for path in folder.glob("*.set.json"):
        path.unlink()


def encoding(folder: str, checkpoint: str, caption: str = "", resolution: int = 64) -> dict:
    """Load Checkpoint and Load Winners ("2") into Encode Winners ("3")."""
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "SePPOLoadWinners", "inputs": {"folder": folder, "caption": caption}},
        "3": {
            "class_type": "SePPOEncodeWinners",
            "inputs": {
                "winners": ["2", 0],
                "vae": ["1", 2],
                "clip": ["1", 1],
                "resolution": resolution,
                "shape": "keep aspect",
                "multiple": 64,
            },
        },
    }
